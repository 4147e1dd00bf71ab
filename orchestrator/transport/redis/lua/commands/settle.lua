-- Ends deliveries that leave nothing but a count.
-- KEYS: stream, ledger. ARGV: group, outcome (followed by a blank and the reason, where there is one), ids…
-- Outcome and reason are one word, because acknowledgements of one outcome are sent together.
-- An id that is no longer pending was requeued meanwhile: its message ran twice, and is counted as duplicated.
-- Returns the number of deliveries that ended.
-- Costs: at most five commands, whatever the number of ids.
--- @include "mailbox_entry"
local stream, ledger = KEYS[1], KEYS[2]
local group, outcome = ARGV[1], ARGV[2]
local FIRST_ID = 3
local ids = {unpack(ARGV, FIRST_ID)}
local ended = redis.call('XACK', stream, group, unpack(ids))
redis.call('XDEL', stream, unpack(ids))
local counted = redis.call('PTTL', stream) == -1
if counted and ended > 0 then redis.call('HINCRBY', ledger, outcome:match('^%S+'), ended) end
if counted and ended < #ids then redis.call('HINCRBY', ledger, 'duplicated', #ids - ended) end
local flow = flow_of(ledger)
if ended == 0 or redis.call('EXISTS', flow) == 0 then return ended end

--- @include "script_events"
--- @include "breaker"

if outcome == 'handled' then
  breaker_succeeded(flow)
elseif outcome:sub(1, 4) == 'dead' then
  for _ = 1, ended do breaker_dead(flow, outcome:sub(6)) end
end
return with_events(ended)
