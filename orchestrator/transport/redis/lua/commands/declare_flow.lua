-- Records a mailbox' flow control. A worker that serves the mailbox overrides what senders have declared.
-- KEYS: flow. ARGV: root, '1' if the caller serves it, '1' with a bound, '1' with a breaker, field, value, …
-- Returns 1; 0 if the caller does not serve the mailbox and its flow control is known already.
-- Costs: at most seven commands.
--- @include "mailbox_entry"
local flow, root = KEYS[1], ARGV[1]
local serves, has_bound, has_breaker = ARGV[2] == '1', ARGV[3] == '1', ARGV[4] == '1'
local FIRST_FIELD = 5
even_when_full(root .. 'queues')
local held = redis.call('HGET', flow, 'held')
if not serves and redis.call('HLEN', flow) > (held and 1 or 0) then return 0 end
if not has_bound then redis.call('HDEL', flow, 'limit', 'overflow', 'block_ms', 'warn_from', 'warned') end
if not has_breaker then
  redis.call('HDEL', flow, 'failures', 'window_ms', 'open_ms', 'phase', 'failed_ms', 'until_ms')
end
if has_bound or has_breaker then redis.call('HSET', flow, unpack(ARGV, FIRST_FIELD)) else redis.call('DEL', flow) end
-- The hold is not the declarer's.
if held then redis.call('HSET', flow, 'held', held) end
return 1
