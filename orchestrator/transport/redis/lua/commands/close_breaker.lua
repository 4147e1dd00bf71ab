-- Closes a mailbox' circuit breaker by hand, and forgets the failures that it has counted.
-- KEYS: flow, set of mailboxes (not read). ARGV: none.
-- Returns 1 if it was open, half-open or isolated, 0 if it was closed, -1 if there is none.
-- Costs: three commands; moves at most 200 deferred messages and 1 MB.
--- @include "mailbox_entry"
--- @include "script_events"
--- @include "breaker"
local flow, queues = KEYS[1], KEYS[2]
even_when_full(queues)
local breaker = breaker_of(flow)
if not breaker then return -1 end
local was_closed = breaker.phase == 'closed'
turn(breaker, 'closed', 0)
save(breaker)
if breaker.is_deferring then let_go(flow, breaker.root, breaker.queue, MOST_LET_GO) end
return with_events(was_closed and 0 or 1)
