-- Breaks the present generation of a barrier, if its time is over.
-- KEYS: leases, timers. ARGV: root, name.
-- Returns messages left to send.
-- Costs: as arrive_at_barrier.
--- @include "barriers"
local leases, timers = KEYS[1], KEYS[2]
local root, name = ARGV[1], ARGV[2]
even_when_full(leases)
local b = open_barrier(root, name)
if time_came(b) then keep(b) end
-- One of a barrier of which nothing is known any more.
if b.due == 0 then redis.call('ZREM', timers, 'barrier:' .. name) end
return with_events(b.left or 0)
