-- Gives a resource of a pool back for its owner.
-- KEYS: leases. ARGV: root, name, resource, owner, entry of the attempt or ''.
-- Returns 1; 0 if the owner does not hold the resource, or held it until its limit passed.
-- Costs: at most 1,000 holders, which is how many resources a pool may have, and 100 tickets.
--- @include "named_leases"
local root, name, resource, owner, entry = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local work = work_on(root, 'pool', name)
local all = redis.call('HGETALL', work.holders)
for i = 1, #all, 2 do
  local holder = cjson.decode(all[i + 1])
  if holder.r == resource and holder.o == owner and holder.e == entry then
    local is_over = is_past_limit(work, holder)
    end_holder(work, holder, is_over and 'limit' or 'released')
    grant_next(work)
    expire_unused(work)
    return with_events(is_over and 0 or 1)
  end
end
emit_event('lease_refused', 'pool', name, owner, resource)
return with_events(0)
