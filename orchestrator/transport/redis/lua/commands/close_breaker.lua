-- Closes a mailbox' circuit breaker by hand, and forgets the failures that it has counted.
-- KEYS: flow. ARGV: none.
-- Returns 1 if it was open or half-open, 0 if it was closed, -1 if there is none.
-- Costs: two commands.
--- @include "script_events"
--- @include "breaker"
local flow = KEYS[1]
local breaker = breaker_of(flow)
if not breaker then return -1 end
local was_closed = breaker.phase == 'closed'
turn(breaker, 'closed', '', 0)
return with_events(was_closed and 0 or 1)
