-- Gives a new incarnation its id and its lease.
-- KEYS: leases, counter. ARGV: root, node name, number of this process' last incarnation or 0, field, value, …
-- Where Redis has lost its data, numbers continue above that one: an id never names two incarnations of a process.
-- Returns {id, number}; the number is its fencing token.
-- Costs: four commands, and one for each mailbox that it says it serves.
--- @include "mailbox_entry"
--- @include "servers"
local leases, counter = KEYS[1], KEYS[2]
local root, name = ARGV[1], ARGV[2]
local last = tonumber(ARGV[3])
local FIRST_FIELD = 4
even_when_full(leases)
local token = redis.call('INCR', counter)
if token <= last then
  token = last + 1
  redis.call('SET', counter, token)
end
local id = name .. '#' .. token
local now = now_ms()
redis.call('HSET', root .. 'incarnation:' .. id, 'started_ms', now, 'token', token, unpack(ARGV, FIRST_FIELD))
redis.call('ZADD', leases, now, id)
for at = FIRST_FIELD, #ARGV, 2 do
  if ARGV[at] == 'queues' then enter_servers(root, id, '', ARGV[at + 1]) end
end
return {id, token}
