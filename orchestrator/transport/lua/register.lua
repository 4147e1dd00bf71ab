-- A new incarnation takes out a lease.
-- KEYS: leases, counter. ARGV: root, node name, field, value, …
-- Returns {id, fencing token}
even_when_full(KEYS[1])
local token = redis.call('INCR', KEYS[2])
local id = ARGV[2] .. '#' .. token
local now = now_ms()
redis.call('HSET', ARGV[1] .. 'incarnation:' .. id, 'started_ms', now, 'token', token, unpack(ARGV, 3))
redis.call('ZADD', KEYS[1], now, id)
return {id, token}
