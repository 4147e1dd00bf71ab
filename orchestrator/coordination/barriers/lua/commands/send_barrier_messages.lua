-- Sends messages of a generation that has ended.
-- KEYS: leases. ARGV: root, name, generation.
-- Returns how many are left.
-- Costs: 200 messages or 1 MB, and the names of 1,000 parties.
--- @include "barriers"
local leases = KEYS[1]
local root, name, generation = ARGV[1], ARGV[2], tonumber(ARGV[3])
even_when_full(leases)
return with_events(send_rest(open_barrier(root, name), generation))
