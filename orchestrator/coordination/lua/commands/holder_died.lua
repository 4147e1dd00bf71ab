-- Releases what a dead incarnation or session held, and takes it out of the lines, some at a time.
-- KEYS: leases, what the owner holds and waits for. ARGV: root, owner, reason, batch.
-- Returns {number released, 1 if there may be more}.
-- Costs: at most `batch` permits and tickets, which callers see to (20), and as many grants and 100 tickets a name.
--- @include "named_leases"
local owned = KEYS[2]
local root, owner, reason, batch = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local members = redis.call('SPOP', owned, batch)
local released, names, order = 0, {}, {}
for _, member in ipairs(members) do
  local token, kind, name = member:match('^(%S+) (%l+):(.*)$')
  -- What something else has written there must not keep the rest from being released.
  if token then
    local tail = kind .. ':' .. name
    if not names[tail] then
      names[tail] = work_on(root, kind, name)
      order[#order + 1] = names[tail]
    end
    local work = names[tail]
    leave_line(work, token)
    local holder = holder_of(work, token)
    if holder and holder.o == owner then
      end_holder(work, holder, reason)
      released = released + 1
    end
  end
end
for _, work in ipairs(order) do
  work.budget = math.max(2, math.floor(MOST / #order))
  grant_next(work)
  expire_unused(work)
end
return with_events({released, #members == tonumber(batch) and 1 or 0})
