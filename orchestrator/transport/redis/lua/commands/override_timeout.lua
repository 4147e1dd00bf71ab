-- Overrides the timeout of a name until a time by Redis' clock.
-- KEYS: overrides. ARGV: name, seconds, ms until its end, by whom, most overrides there may be.
-- Returns {1, now, its end in ms}, or {0, number of overrides} if there are too many.
-- Costs: six commands, and one read of at most that many overrides.
--- @include "timeout_overrides"
local overrides = KEYS[1]
local name, seconds, ttl_ms, by, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local now = now_ms()
local last_ms, number = drop_ended(overrides, now)
if number >= most and redis.call('HEXISTS', overrides, name) == 0 then return {0, number} end
local until_ms = now + ttl_ms
redis.call('HSET', overrides, name, cjson.encode({s = seconds, at_ms = now, until_ms = until_ms, by = by}))
renew_version(overrides, now)
redis.call('PEXPIREAT', overrides, math.max(last_ms, until_ms))
return {1, now, until_ms}
