-- Finds consumers that hold messages and are neither alive nor being cleared away, and has them cleared away.
-- A reader that slept in Redis when it was given up, or that was stopped just before it fell asleep, may be served
-- after its mail was handed on. KEYS: queues, leases, dying, sweep.
-- ARGV: root, group, turn, ms a turn lasts, steps… Returns their ids.
even_when_full(KEYS[2])
local stale = turn_lost(KEYS[4], ARGV[3], ARGV[4])
if stale then return stale end
local found = {}
for _, queue in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  for s = 5, #ARGV do
    local consumers = redis.pcall('XINFO', 'CONSUMERS', ARGV[1] .. 'q:' .. ARGV[s] .. ':' .. queue, ARGV[2])
    if not consumers.err then
      for _, consumer in ipairs(consumers) do
        local name, pending
        for i = 1, #consumer, 2 do
          if consumer[i] == 'name' then name = consumer[i + 1] end
          if consumer[i] == 'pending' then pending = consumer[i + 1] end
        end
        if pending > 0 and name:find('#', 1, true) and not redis.call('ZSCORE', KEYS[2], name)
            and not redis.call('ZSCORE', KEYS[3], name) then
          redis.call('ZADD', KEYS[3], now_ms(), name)
          found[#found + 1] = name
        end
      end
    end
  end
end
return found
