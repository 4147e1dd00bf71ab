-- Gives a permit back, or takes a request out of the line, and grants what is free to the next.
-- KEYS: leases. ARGV: root, kind, name, token, reason.
-- Returns 1 if the permit was held, else 0.
-- Costs: at most 100 tickets; about 12 commands otherwise.
--- @include "named_leases"
local leases = KEYS[1]
local root, kind, name, token, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
even_when_full(leases)
local work = work_on(root, kind, name)
local held = release(work, token, reason)
keep(work)
return with_events(held and 1 or 0)
