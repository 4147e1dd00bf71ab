-- Those who wait at barriers in a dead process are lost: of one barrier.
-- KEYS: leases, barriers of the owner. ARGV: root, owner, reason.
-- Returns 1 if there may be more.
-- Costs: 1,000 parties that wait are looked through; then as arrive_at_barrier.
--- @include "barriers"
local leases, owned = KEYS[1], KEYS[2]
local root, owner, reason = ARGV[1], ARGV[2], ARGV[3]
even_when_full(leases)
local name = redis.call('SRANDMEMBER', owned)
if not name then return 0 end
local b = open_barrier(root, name)
lose_some(b, redis.call('HGETALL', b.waiting), function(one) return one.o == owner and reason end)
redis.call('SREM', owned, name)
keep(b)
return with_events(1)
