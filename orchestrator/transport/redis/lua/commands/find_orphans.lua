-- Finds consumers that hold messages and are neither alive nor being cleared away, and has them cleared away.
-- A reader that slept in Redis when it was given up, or that was stopped just before it fell asleep, may be served
-- after its mail was handed on. KEYS: leases, dying, sweep.
-- ARGV: root, group, turn, ms a turn lasts, ms of idleness after which a reader is gone, how many steps, steps…, queues…
-- A reader acknowledges nothing and has no lease; it settles what it reads before it does anything else with it.
-- Returns their ids.
--- @include "mailbox_entry"
even_when_full(KEYS[1])
local stale = turn_lost(KEYS[3], ARGV[3], ARGV[4])
if stale then return stale end
local found = {}
local last_step = 6 + tonumber(ARGV[6])
for q = last_step + 1, #ARGV do
  local queue = ARGV[q]
  for s = 7, last_step do
    local stream = ARGV[1] .. 'q:' .. ARGV[s] .. ':' .. queue
    local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, ARGV[2])
    if not consumers.err then
      for _, consumer in ipairs(consumers) do
        local name, pending, idle
        for i = 1, #consumer, 2 do
          if consumer[i] == 'name' then name = consumer[i + 1] end
          if consumer[i] == 'pending' then pending = consumer[i + 1] end
          if consumer[i] == 'idle' then idle = consumer[i + 1] end
        end
        local gone = name:find('#', 1, true) or name:sub(1, 7) == 'reader:' and idle > tonumber(ARGV[5])
        if gone and pending == 0 and name:sub(1, 7) == 'reader:' then
          redis.call('XGROUP', 'DELCONSUMER', stream, ARGV[2], name)
        elseif gone and pending > 0 and not redis.call('ZSCORE', KEYS[1], name)
            and not redis.call('ZSCORE', KEYS[2], name) then
          redis.call('ZADD', KEYS[2], now_ms(), name)
          found[#found + 1] = name
        end
      end
    end
  end
end
return found
