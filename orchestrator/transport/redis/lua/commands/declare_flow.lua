-- Records a mailbox' flow control. A worker that serves the mailbox overrides what senders have declared. It does not end a singleton:
-- while one living worker declares it, it is one (see claim.lua).
-- KEYS: flow. ARGV: root, '1' if the caller serves it, '1' with a bound, '1' with a breaker, the election of a singleton or '', how
-- many of its messages run at a time or '', the field by which they are told apart or '', field, value, …
-- Returns 1; 0 if the caller does not serve the mailbox and its flow control is known already.
-- Costs: at most ten commands; one for each living worker, at most 1,000, when the mailbox becomes one of which a claim alone says who
-- may have its messages.
--- @include "mailbox_entry"
--- @include "wake_readers"
local flow, root = KEYS[1], ARGV[1]
local serves, has_bound, has_breaker, election = ARGV[2] == '1', ARGV[3] == '1', ARGV[4] == '1', ARGV[5]
local limit, limit_key = ARGV[6], ARGV[7]
local FIRST_FIELD = 8
even_when_full(root .. 'queues')
local on_hold, singleton, declared_ms, known_limit, known_key =
  unpack(redis.call('HMGET', flow, 'on_hold', 'singleton', 'singleton_ms', 'concurrency', 'concurrency_key'))
local not_flow = (on_hold and 1 or 0) + (singleton and 1 or 0) + (declared_ms and 1 or 0) + (known_limit and 1 or 0) + (known_key and 1 or 0)
if not serves and redis.call('HLEN', flow) > not_flow then return 0 end
if not has_bound then redis.call('HDEL', flow, 'limit', 'overflow', 'block_ms', 'warn_from', 'warned') end
redis.call('HDEL', flow, 'failures', 'window_ms', 'open_ms', 'least', 'failure_rate', 'slow_rate', 'probes', 'callers')
if not has_breaker then
  redis.call('HDEL', flow, 'phase', 'failed_ms', 'until_ms', 'why', 'slices', 'hosts', 'admitted', 'probes_handled')
end
if has_bound or has_breaker then redis.call('HSET', flow, unpack(ARGV, FIRST_FIELD)) else redis.call('DEL', flow) end
-- The hold is not the declarer's, and who may claim is for those who serve the mailbox to say.
if on_hold then redis.call('HSET', flow, 'on_hold', on_hold) end
local becomes_limited = serves and ((election ~= '' and singleton ~= election) or (limit ~= '' and not known_limit))
if serves then
  if election ~= '' then singleton, declared_ms = election, now_ms() end
  known_limit, known_key = limit ~= '' and limit, limit_key ~= '' and limit_key
end
if singleton then redis.call('HSET', flow, 'singleton', singleton, 'singleton_ms', declared_ms or 0) end
if known_limit then redis.call('HSET', flow, 'concurrency', known_limit) else redis.call('HDEL', flow, 'concurrency') end
if known_key then redis.call('HSET', flow, 'concurrency_key', known_key) else redis.call('HDEL', flow, 'concurrency_key') end
if becomes_limited then wake_readers(root, flow:match('orc:flow:(.*)$')) end
return 1
