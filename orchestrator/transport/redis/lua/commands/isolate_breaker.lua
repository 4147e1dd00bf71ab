-- Keeps a mailbox' circuit breaker open until it is closed by hand.
-- KEYS: flow, set of mailboxes (not read). ARGV: why.
-- Returns 1; 0 if it was isolated already, which gets the new reason; -1 if there is none.
-- Costs: four commands.
--- @include "mailbox_entry"
--- @include "script_events"
--- @include "breaker"
local flow, queues = KEYS[1], KEYS[2]
local why = ARGV[1]
even_when_full(queues)
local breaker = breaker_of(flow)
if not breaker then return -1 end
local was_isolated = breaker.phase == 'isolated'
breaker.why = why
redis.call('HSET', flow, 'why', why)
turn(breaker, 'isolated', 0)
save(breaker)
return with_events(was_isolated and 0 or 1)
