-- Whether a request's permit is still its own.
-- KEYS: leases. ARGV: root, kind, name, token.
-- Returns 1 or 0.
-- Costs: about 5 commands.
--- @include "named_leases"
local root, kind, name, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local work = work_on(root, kind, name)
local holder = holder_of(work, token)
return holder and not is_over(work, holder) and 1 or 0
