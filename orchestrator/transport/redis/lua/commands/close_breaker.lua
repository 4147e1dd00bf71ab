-- Closes a mailbox' circuit breaker by hand, and forgets the failures that it has counted.
-- KEYS: flow, set of mailboxes (not read), hash of last publishes. ARGV: token of this call.
-- Returns 1 if it was open, half-open or isolated, 0 if it was closed, -1 if there is none. A repeated call returns its first answer.
-- Costs: five commands; moves at most 200 deferred messages and 1 MB.
--- @include "mailbox_entry"
--- @include "script_events"
--- @include "breaker"
--- @include "recorded_answers"
local flow, queues, publishes = KEYS[1], KEYS[2], KEYS[3]
local token = ARGV[1]
local answered = recorded_answer(publishes, token)
if answered then return tonumber(answered) end
even_when_full(queues)
local breaker = breaker_of(flow)
if not breaker then return -1 end
local was_closed = breaker.phase == 'closed'
turn(breaker, 'closed', 0)
save(breaker)
if breaker.is_deferring then let_go(flow, breaker.root, breaker.queue, MOST_LET_GO) end
local answer = was_closed and 0 or 1
record_answer(publishes, token, answer)
return with_events(answer)
