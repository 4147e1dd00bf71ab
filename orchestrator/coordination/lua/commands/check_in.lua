-- Gives a resource of a pool back for its owner.
-- KEYS: leases, hash of last publishes. ARGV: root, name, resource, owner, entry of the attempt or '', token of this call.
-- Returns the fence of the permit that has ended; '' if the owner does not hold the resource, or held it until its limit passed. A repeated
-- call returns its first answer, also if the owner has checked the resource out again meanwhile.
-- Costs: at most 1,000 holders, which is how many resources a pool may have, and 100 tickets.
--- @include "recorded_answers"
--- @include "named_leases"
local publishes = KEYS[2]
local root, name, resource, owner, entry, call = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local answered = recorded_answer(publishes, call)
if answered then return answered end
local work = work_on(root, 'pool', name)
local all = redis.call('HGETALL', work.holders)
for i = 1, #all, 2 do
  local holder = cjson.decode(all[i + 1])
  if holder.r == resource and holder.o == owner and holder.e == entry then
    local answer = ''
    if is_past_limit(work, holder) then
      end_holder(work, holder, 'limit')
    else
      remove_holder(work, holder, 'released')
      --- @event 'lease_ended', 'pool', name, holder.o, holder.f, 'released'
      answer = string.format('%.0f', holder.f)
      record_answer(publishes, call, answer)
    end
    grant_next(work)
    expire_unused(work)
    return with_events(answer)
  end
end
emit_event('lease_refused', 'pool', name, owner, resource)
return with_events('')
