-- Renews a lease for the heart of an incarnation: its process is at work, or its connection has just been opened again.
-- KEYS: leases, incarnation. ARGV: id, the heart's connection.
-- Returns 0 when fenced, else 1.
-- Costs: four commands.
--- @include "mailbox_entry"
local leases, incarnation_key = KEYS[1], KEYS[2]
local id, connection = ARGV[1], ARGV[2]
even_when_full(leases)
if not redis.call('ZSCORE', leases, id) then return 0 end
redis.call('ZADD', leases, now_ms(), id)
redis.call('HSET', incarnation_key, 'heart', connection)
return 1
