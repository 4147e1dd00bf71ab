-- Ends deliveries that leave nothing but a count.
-- KEYS: stream, ledger. ARGV: group, outcome, ids…
-- The outcome may be followed by a blank and what the breaker needs: `slow` of one that was handled slowly; why it is dead, and
-- behind a line's end the host that sent it.
-- Outcome and reason are one word, because acknowledgements of one outcome are sent together.
-- An id that is no longer pending was requeued meanwhile: its message ran twice, and is counted as duplicated.
-- Returns the number of deliveries that ended.
-- Costs: at most six commands, whatever the number of ids; of an agent with lanes, the next messages are let
-- go, of 1 MB and one message.
--- @include "mailbox_entry"
local stream, ledger = KEYS[1], KEYS[2]
local group, outcome = ARGV[1], ARGV[2]
local FIRST_ID = 3
local ids = {unpack(ARGV, FIRST_ID)}
local ended = redis.call('XACK', stream, group, unpack(ids))
redis.call('XDEL', stream, unpack(ids))
local counted = redis.call('PTTL', stream) == -1
-- A ledger that is a key of another type must not keep what has ended from ending.
if counted and ended > 0 then add_count_afterwards(ledger, outcome:match('^%S+'), ended) end
if counted and ended < #ids then add_count_afterwards(ledger, 'duplicated', #ids - ended) end
local flow = flow_of(ledger)
if ended == 0 or redis.call('EXISTS', flow) == 0 then return ended end

--- @include "script_events"
--- @include "breaker"

if outcome:sub(1, 7) == 'handled' then
  breaker_succeeded(flow, outcome == 'handled slow', ended)
elseif outcome:sub(1, 4) == 'dead' then
  local why, host = ending_of(outcome:sub(6))
  breaker_dead(flow, why, nil, host, ended)
end
if redis.call('HEXISTS', flow, 'concurrency') == 0 then return with_events(ended) end

--- @include "outcome_hooks"
--- @include "end_permits"

end_attempts(ledger, stream, ids)
return with_events(ended)
