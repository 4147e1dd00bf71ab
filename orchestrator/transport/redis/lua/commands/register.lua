-- A new incarnation takes out a lease.
-- KEYS: leases, counter. ARGV: root, node name, number of this process' last incarnation or 0, field, value, …
-- Numbers go on above that one where Redis has lost its data: an id never names two incarnations of a process.
-- Returns {id, fencing token}
--- @include "mailbox_entry"
even_when_full(KEYS[1])
local token = redis.call('INCR', KEYS[2])
local last = tonumber(ARGV[3])
if token <= last then
  token = last + 1
  redis.call('SET', KEYS[2], token)
end
local id = ARGV[2] .. '#' .. token
local now = now_ms()
redis.call('HSET', ARGV[1] .. 'incarnation:' .. id, 'started_ms', now, 'token', token, unpack(ARGV, 4))
redis.call('ZADD', KEYS[1], now, id)
return {id, token}
