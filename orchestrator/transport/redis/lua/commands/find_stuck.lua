-- Which of those that ask for no messages have some waiting in their mailboxes? Their heartbeats must be fresh.
-- KEYS: silent, leases. ARGV: suspect after ms, root, group, from the how-manieth on, how many, steps…
-- Returns {from which on to look the next time, id, beat, …}
--- @include "mailbox_entry"
local now = now_ms()
local from, many = tonumber(ARGV[4]), tonumber(ARGV[5])
local ids = redis.call('ZRANGE', KEYS[1], from, from + many - 1)
local out = {#ids < many and 0 or from + many}
for _, id in ipairs(ids) do
  local beat = redis.call('ZSCORE', KEYS[2], id)
  if not beat then
    redis.call('ZREM', KEYS[1], id)
  elseif now - tonumber(beat) <= tonumber(ARGV[1]) then
    local names = redis.call('HGET', ARGV[2] .. 'incarnation:' .. id, 'queues')
    local waits = false
    for _, queue in ipairs(names and queues_in(names) or {}) do
      local due = redis.call('ZRANGEBYSCORE', ARGV[2] .. 'delayed:' .. queue, '-inf', now, 'LIMIT', 0, 1)
      waits = waits or due[1] ~= nil
      for s = 6, #ARGV do
        local stream = ARGV[2] .. 'q:' .. ARGV[s] .. ':' .. queue
        local pending = redis.pcall('XPENDING', stream, ARGV[3])
        if not pending.err and redis.call('XLEN', stream) > pending[1] then waits = true end
      end
    end
    if waits then
      out[#out + 1] = id
      out[#out + 1] = beat
    end
  end
end
return out
