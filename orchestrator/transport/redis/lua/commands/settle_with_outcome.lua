-- Ends one delivery and records its outcome for whoever waits.
-- KEYS: stream, ledger, outcome. ARGV: group, id, counter, outcome as JSON, ms to keep it, the reason of one that is dead
--- @include "mailbox_entry"
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then
  redis.call('HINCRBY', KEYS[2], 'duplicated', 1)
  return 0
end
redis.call('XDEL', KEYS[1], ARGV[2])
redis.call('HINCRBY', KEYS[2], ARGV[3], 1)
record(KEYS[3], ARGV[4], ARGV[5], ARGV[3])
local flow = flow_of(KEYS[2])
if redis.call('EXISTS', flow, hooks_of(KEYS[3])) == 0 then return 1 end

--- @include "script_events"
--- @include "outcome_hooks"
--- @include "breaker"

-- The rest of settle_with_outcome.lua, where a breaker is to be told, or more follows from the outcome.
aftermath(KEYS[3], ARGV[3], ARGV[5])
if ARGV[3] == 'handled' then
  breaker_succeeded(flow)
elseif ARGV[3] == 'dead' then
  breaker_dead(flow, ARGV[6])
end
return answer(1)
