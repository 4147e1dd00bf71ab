-- Renews a lease. KEYS: leases, incarnation, sweep. ARGV: id, field, value, …
-- Returns {0} when fenced, else {1, ms since the last sweep or -1}
even_when_full(KEYS[1])
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return {0} end
local now = now_ms()
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('HSET', KEYS[2], unpack(ARGV, 2))
local swept = redis.call('HGET', KEYS[3], 'at_ms')
return {1, swept and now - tonumber(swept) or -1}
