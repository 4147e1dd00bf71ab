-- Overrides the timeout of a name until a time by Redis' clock.
-- KEYS: overrides, hash of last publishes. ARGV: name, seconds, ms until its end, by whom, most overrides there may be, token of this call.
-- Returns {1, now, its end in ms}, or {0, number of overrides} if there are too many. A repeated call returns its first answer.
-- Costs: eight commands, and one read of at most that many overrides.
--- @include "recorded_answers"
--- @include "timeout_overrides"
local overrides, publishes = KEYS[1], KEYS[2]
local name, seconds, ttl_ms, by, most, token = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), ARGV[6]
local answered = recorded_answer(publishes, token)
if answered then return {1, tonumber(answered), tonumber(answered) + ttl_ms} end
local now = now_ms()
local last_ms, number = drop_ended(overrides, now)
if number >= most and redis.call('HEXISTS', overrides, name) == 0 then return {0, number} end
local until_ms = now + ttl_ms
redis.call('HSET', overrides, name, cjson.encode({s = seconds, at_ms = now, until_ms = until_ms, by = by}))
renew_version(overrides, now)
redis.call('PEXPIREAT', overrides, math.max(last_ms, until_ms))
record_answer(publishes, token, string.format('%.0f', now))
return {1, now, until_ms}
