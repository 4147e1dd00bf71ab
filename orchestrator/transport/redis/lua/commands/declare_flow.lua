-- Records a mailbox' flow control. A worker that serves the mailbox overrides what senders have declared.
-- KEYS: flow. ARGV: root, '1' if the caller serves it, '1' with a bound, '1' with a breaker, the election of a singleton or '', field,
-- value, …
-- Returns 1; 0 if the caller does not serve the mailbox and its flow control is known already.
-- Costs: at most eight commands.
--- @include "mailbox_entry"
local flow, root = KEYS[1], ARGV[1]
local serves, has_bound, has_breaker, election = ARGV[2] == '1', ARGV[3] == '1', ARGV[4] == '1', ARGV[5]
local FIRST_FIELD = 6
even_when_full(root .. 'queues')
local held, singleton = unpack(redis.call('HMGET', flow, 'held', 'singleton'))
if not serves and redis.call('HLEN', flow) > (held and 1 or 0) + (singleton and 1 or 0) then return 0 end
if not has_bound then redis.call('HDEL', flow, 'limit', 'overflow', 'block_ms', 'warn_from', 'warned') end
redis.call('HDEL', flow, 'failures', 'window_ms', 'open_ms', 'least', 'failure_rate', 'slow_rate', 'probes', 'callers')
if not has_breaker then
  redis.call('HDEL', flow, 'phase', 'failed_ms', 'until_ms', 'why', 'slices', 'hosts', 'admitted', 'probes_handled')
end
if has_bound or has_breaker then redis.call('HSET', flow, unpack(ARGV, FIRST_FIELD)) else redis.call('DEL', flow) end
-- The hold is not the declarer's, and who may claim is for those who serve the mailbox to say.
if held then redis.call('HSET', flow, 'held', held) end
if serves then singleton = election ~= '' and election end
if singleton then redis.call('HSET', flow, 'singleton', singleton) else redis.call('HDEL', flow, 'singleton') end
return 1
