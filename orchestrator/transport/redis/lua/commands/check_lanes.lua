-- Ends permits whose message is not in its mailbox any more, and lets messages go for which there are permits.
-- KEYS: timers, queues. ARGV: root, queue.
-- Returns {permits ended, messages let go}.
-- Costs: 200 permits and 200 keys are looked at; at most 20 messages of each of 10 keys are let go, of 1 MB and one message.
--- @include "clock"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "end_permits"
local timers, queues = KEYS[1], KEYS[2]
local root, queue = ARGV[1], ARGV[2]
local MOST_LOOKED_AT, MOST_KEYS = 200, 10
even_when_full(queues)
local lanes = lanes_of(root, queue)
local cursors = root .. 'permits-checked:' .. queue
local ended, gone, keys = 0, 0, 0
local function scan(name, key)
  local found = redis.call('HSCAN', key, redis.call('HGET', cursors, name) or '0', 'COUNT', MOST_LOOKED_AT)
  redis.call('HSET', cursors, name, found[1])
  return found[2]
end
local permits = scan('permits', lanes.permits)
for at = 1, #permits, 2 do
  local level, id = permits[at]:match('^(%S+) (.*)$')
  local stream = root .. 'q:' .. level .. ':' .. queue
  local pending = redis.pcall('XPENDING', stream, 'workers', id, id, 1)
  local is_there = not pending.err and pending[1] or redis.call('XRANGE', stream, id, id)[1]
  if not is_there and end_permit(lanes, permits[at]) then ended = ended + 1 end
end
local used = scan('used', lanes.used)
for at = 1, #used, 2 do
  if keys < MOST_KEYS and tonumber(used[at + 1]) < lanes.limit then
    local some = use_permits(lanes, used[at])
    gone, keys = gone + some, keys + (some > 0 and 1 or 0)
    forget_unused(lanes, used[at])
  end
end
if redis.call('EXISTS', lanes.used) == 0 then
  redis.call('ZREM', timers, 'lanes:' .. queue)
  redis.call('DEL', cursors)
else
  redis.call('ZADD', timers, now_ms() + CHECK_MS, 'lanes:' .. queue)
end
return with_events({ended, gone})
