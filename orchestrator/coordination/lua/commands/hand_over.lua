-- Ends an election's term in favour of the first request of a candidate.
-- KEYS: leases. ARGV: root, name, token, the candidate's incarnation or session.
-- Returns {'ended', fence of the term}, again if the call is repeated; {'not held'}; or {'no candidate'} if that candidate does not wait.
-- Of the last two, nothing has changed.
-- Costs: at most 100 tickets.
--- @include "named_leases"
local root, name, token, candidate = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local work = work_on(root, 'election', name)
local holder = holder_of(work, token)
if not holder then
  local last, fence = (redis.call('HGET', work.state, 'h') or ''):match('^(%S+) (%d+)$')
  return last == token and {'ended', fence} or {'not held'}
end
for _, member in ipairs(redis.call('ZRANGE', work.line, 0, MOST - 1)) do
  local waiting = member:sub(17)
  local known = redis.call('HGET', work.waiting, waiting)
  local ticket = known and cjson.decode(known)
  if ticket and ticket.o == candidate and still_waits(work, ticket) then
    remove_holder(work, holder, 'resigned')
    --- @event 'lease_ended', 'election', name, holder.o, holder.f, 'resigned'
    redis.call('HSET', work.state, 'h', string.format('%s %.0f', token, holder.f))
    leave_line(work, waiting)
    grant_and_wake(work, waiting, ticket)
    return with_events({'ended', string.format('%.0f', holder.f)})
  end
end
return {'no candidate'}
