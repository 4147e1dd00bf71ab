-- Lets go of a mailbox' deferred messages, as many as its breaker admits, and else sets the time to try again.
-- KEYS: flow, timers, set of mailboxes (not read). ARGV: root, queue.
-- Returns {messages let go, messages still deferred}.
-- Costs: moves at most 200 messages and 1 MB.
--- @include "script_events"
--- @include "breaker"
local flow, timers, queues = KEYS[1], KEYS[2], KEYS[3]
local root, queue = ARGV[1], ARGV[2]
even_when_full(queues)
local moved = let_admitted_go(flow, root, queue)
local left = redis.call('XLEN', deferred_stream(root, queue))
if left > 0 then
  local now, at = now_ms(), 0
  local b = breaker_of(flow)
  if b and b.phase == 'isolated' then at = now + b.open_ms elseif b and b.phase ~= 'closed' then at = b.until_ms end
  redis.call('ZADD', timers, math.max(now, at), 'deferred:' .. queue)
end
return with_events({moved, left})
