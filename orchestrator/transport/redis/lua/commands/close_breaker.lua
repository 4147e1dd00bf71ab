-- Closes a mailbox' circuit breaker by hand, and forgets the failures that it has counted.
-- KEYS: flow. Returns 1 if it was open or half-open, 0 if it was closed, -1 if there is none.
--- @include "mailbox_entry"
--- @include "script_events"
--- @include "breaker"
local breaker = breaker_of(KEYS[1])
if not breaker then return -1 end
local was_closed = breaker.phase == 'closed'
turn(breaker, 'closed', '', 0)
return answer(was_closed and 0 or 1)
