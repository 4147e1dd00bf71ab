-- Finds consumers that hold messages and are neither alive nor dying, and marks them as dying: a read that was blocked in Redis
-- when its reader died may be served after the reader's messages were requeued.
-- KEYS: leases, dying, sweep.
-- ARGV: root, group, turn, ms a turn lasts, ms of idleness after which a reader is gone, number of levels, levels…, queues…
-- A reader does not acknowledge and has no lease; it settles each message before it uses it.
-- Returns their ids.
-- Costs: one command a stream; callers name some queues at a time.
--- @include "mailbox_entry"
local leases, dying, sweep = KEYS[1], KEYS[2], KEYS[3]
local root, group, turn, turn_ms, reader_idle_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local FIRST_LEVEL = 7
local last_level = FIRST_LEVEL - 1 + tonumber(ARGV[6])
even_when_full(leases)
local stale = turn_lost(sweep, turn, turn_ms)
if stale then return stale end
local found = {}
for q = last_level + 1, #ARGV do
  local queue = ARGV[q]
  for s = FIRST_LEVEL, last_level do
    local stream = root .. 'q:' .. ARGV[s] .. ':' .. queue
    local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group)
    if not consumers.err then
      for _, consumer in ipairs(consumers) do
        local name, pending, idle
        for i = 1, #consumer, 2 do
          if consumer[i] == 'name' then name = consumer[i + 1] end
          if consumer[i] == 'pending' then pending = consumer[i + 1] end
          if consumer[i] == 'idle' then idle = consumer[i + 1] end
        end
        local gone = name:find('#', 1, true) or name:sub(1, 7) == 'reader:' and idle > tonumber(reader_idle_ms)
        if gone and pending == 0 and name:sub(1, 7) == 'reader:' then
          redis.call('XGROUP', 'DELCONSUMER', stream, group, name)
        elseif gone and pending > 0 and not redis.call('ZSCORE', leases, name)
            and not redis.call('ZSCORE', dying, name) then
          redis.call('ZADD', dying, now_ms(), name)
          found[#found + 1] = name
        end
      end
    end
  end
end
return found
