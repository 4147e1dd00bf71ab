-- Which of those that ask for no messages have some waiting in their mailboxes? Their heartbeats must be fresh.
-- KEYS: silent, leases. ARGV: suspect after ms, root, group, steps… Returns {id, beat, …}
local out = {}
local now = now_ms()
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, 99)) do
  local beat = redis.call('ZSCORE', KEYS[2], id)
  if not beat then
    redis.call('ZREM', KEYS[1], id)
  elseif now - tonumber(beat) <= tonumber(ARGV[1]) then
    local names = redis.call('HGET', ARGV[2] .. 'incarnation:' .. id, 'queues')
    local waits = false
    for _, queue in ipairs(names and cjson.decode(names) or {}) do
      local due = redis.call('ZRANGEBYSCORE', ARGV[2] .. 'delayed:' .. queue, '-inf', now, 'LIMIT', 0, 1)
      waits = waits or due[1] ~= nil
      for s = 4, #ARGV do
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
