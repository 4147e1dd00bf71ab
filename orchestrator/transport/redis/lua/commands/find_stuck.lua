-- Finds incarnations that send heartbeats and do not consume, though messages wait in their mailboxes.
-- KEYS: not_polling, leases. ARGV: ms after which a heartbeat is late, root, group, offset of the first one to look at, how
-- many to look at, levels…
-- Returns {offset for the next call, id, heartbeat, …}.
-- Costs: three commands for each stream of an incarnation; callers name at most 100 incarnations.
--- @include "mailbox_entry"
local not_polling, leases = KEYS[1], KEYS[2]
local late_ms, root, group = ARGV[1], ARGV[2], ARGV[3]
local from, many = tonumber(ARGV[4]), tonumber(ARGV[5])
local FIRST_LEVEL = 6
local now = now_ms()
local ids = redis.call('ZRANGE', not_polling, from, from + many - 1)
local out = {#ids < many and 0 or from + many}
for _, id in ipairs(ids) do
  local beat = redis.call('ZSCORE', leases, id)
  if not beat then
    redis.call('ZREM', not_polling, id)
  elseif now - tonumber(beat) <= tonumber(late_ms) then
    local names = redis.call('HGET', root .. 'incarnation:' .. id, 'queues')
    local waits = false
    for _, queue in ipairs(names and queues_in(names) or {}) do
      local due = redis.call('ZRANGEBYSCORE', root .. 'delayed:' .. queue, '-inf', now, 'LIMIT', 0, 1)
      waits = waits or due[1] ~= nil
      for s = FIRST_LEVEL, #ARGV do
        local stream = root .. 'q:' .. ARGV[s] .. ':' .. queue
        local pending = redis.pcall('XPENDING', stream, group)
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
