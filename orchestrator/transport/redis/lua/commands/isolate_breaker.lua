-- Keeps a mailbox' circuit breaker open until it is closed by hand.
-- KEYS: flow, set of mailboxes (not read), hash of last publishes. ARGV: why, token of this call.
-- Returns 1; 0 if it was isolated already, which gets the new reason; -1 if there is none. A repeated call returns its first answer.
-- Costs: six commands.
--- @include "mailbox_entry"
--- @include "script_events"
--- @include "breaker"
--- @include "recorded_answers"
local flow, queues, publishes = KEYS[1], KEYS[2], KEYS[3]
local why, token = ARGV[1], ARGV[2]
local answered = recorded_answer(publishes, token)
if answered then return tonumber(answered) end
even_when_full(queues)
local breaker = breaker_of(flow)
if not breaker then return -1 end
local was_isolated = breaker.phase == 'isolated'
breaker.why = why
redis.call('HSET', flow, 'why', why)
turn(breaker, 'isolated', 0)
save(breaker)
local answer = was_isolated and 0 or 1
record_answer(publishes, token, answer)
return with_events(answer)
