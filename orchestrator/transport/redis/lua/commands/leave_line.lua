-- Takes a request whose caller waits no more out of the line of a bulkhead. One that was accepted meanwhile stays in flight.
-- KEYS: the ask, the mailbox' bulkhead. ARGV: the ask's id.
-- Returns 1; 0 if it was accepted.
-- Costs: a few sorted-set commands, and the wake-up of the next in the line.
--- @include "bulkhead"
local ask, bulkhead = KEYS[1], KEYS[2]
if redis.call('EXISTS', ask) == 1 then return 0 end
leave_line(bulkhead, ARGV[1])
return 1
