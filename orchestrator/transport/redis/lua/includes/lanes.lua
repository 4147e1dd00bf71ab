--- @include "mailbox_entry"
-- Permits and lanes: how many messages of an agent run at a time (the rule is core/admission/concurrency.py). A mailbox has them if its flow hash
-- has the field `concurrency`, the limit; `concurrency_key` is the field of its messages by which they are told apart.
--   permits:QUEUE          hash: "LEVEL ENTRY" of a message that has a permit, whether it is claimed or about to be -> key
--   permits-used:QUEUE     hash: key -> how many there are
--   q:lanes:QUEUE          the messages that wait, as entries of a stream that nobody claims from; besides, l, the level that each goes
--                          back to, and k, its key
--   lane:LENGTH:QUEUE:KEY  list of a key's entries in that stream, in order
-- A message enters a lane where it is claimed, so every way into a mailbox leads here. A permit ends in the script that ends the attempt,
-- and moves with a message that is requeued. What was taken out of a stream otherwise, a sweep finds within a second (check_lanes.lua).
local CHECK_MS = 1000

local function lanes_of(root, queue)
  local flow = root .. 'flow:' .. queue
  local limit, field = unpack(redis.call('HMGET', flow, 'concurrency', 'concurrency_key'))
  return {root = root, queue = queue, flow = flow, permits = root .. 'permits:' .. queue, used = root .. 'permits-used:' .. queue,
    stream = root .. 'q:lanes:' .. queue, limit = tonumber(limit or math.huge), field = field or ''}
end

local function lane_of(lanes, key)
  return lanes.root .. 'lane:' .. #lanes.queue .. ':' .. lanes.queue .. ':' .. key
end

-- The name of an entry that may have a permit. Its stream is root .. 'q:LEVEL:' .. queue.
local function permit_of(lanes, stream, id)
  return stream:sub(#lanes.root + 3, -#lanes.queue - 2) .. ' ' .. id
end

local function add_permit(lanes, stream, id, key)
  redis.call('HSET', lanes.permits, permit_of(lanes, stream, id), key)
  redis.call('HINCRBY', lanes.used, key, 1)
  redis.call('ZADD', lanes.root .. 'timers', 'NX', now_ms() + CHECK_MS, 'lanes:' .. lanes.queue)
end

-- A message was requeued: it keeps its permit.
local function move_permit(lanes, before, now)
  local key = redis.call('HGET', lanes.permits, before)
  if not key then return end
  redis.call('HDEL', lanes.permits, before)
  redis.call('HSET', lanes.permits, now, key)
end
