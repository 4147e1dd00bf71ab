-- Ends one delivery and records its outcome for those that wait for it.
-- KEYS: stream, ledger, outcome. ARGV: group, entry id, counter, outcome as JSON, ms to keep it, and for the breaker: `slow` if it was
-- handled slowly; if it is dead its reason, and after a newline the host that sent it.
-- Returns 1; 0 if the entry is no longer pending, which counts as duplicated.
-- Costs: at most seven commands; with outcome hooks, what they send.
local stream, ledger, outcome_key = KEYS[1], KEYS[2], KEYS[3]
local group, entry_id, counter, outcome, ttl_ms, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if redis.call('XACK', stream, group, entry_id) == 0 then
  redis.pcall('HINCRBY', ledger, 'duplicated', 1)
  return 0
end
redis.call('XDEL', stream, entry_id)
-- A ledger that is a key of another type must not keep the outcome from being recorded.
local counted = redis.pcall('HINCRBY', ledger, counter, 1)
if type(counted) == 'table' and not counted.err:find('WRONGTYPE', 1, true) then
  -- As add_count() in counters.lua.
  redis.call('HSET', ledger, 'broken: ' .. counter, redis.call('HGET', ledger, counter), counter, 1)
end
-- As record(), flow_of() and hooks_of() in mailbox_entry.lua, which Redis need not even make for most messages.
if redis.call('RPUSH', outcome_key, outcome) > 1 then redis.call('LTRIM', outcome_key, -1, -1) end
redis.call('PEXPIRE', outcome_key, ttl_ms)
local flow = ledger:gsub('orc:ledger:', 'orc:flow:', 1)
local hooks = outcome_key:gsub('orc:outcome:', 'orc:hooks:', 1)
local found = redis.call('EXISTS', flow, hooks)
if found == 0 then return 1 end

--- @include "mailbox_entry"
--- @include "script_events"
--- @include "outcome_hooks"

run_outcome_hooks(outcome_key, counter, ttl_ms, outcome)
-- Only one of the two was there: the hooks, as of a step of a workflow. Without flow control the rest is not even defined.
if found == 1 and redis.call('EXISTS', flow) == 0 then return with_events(1) end

--- @include "breaker"

if counter == 'handled' then
  breaker_succeeded(flow, reason == 'slow')
elseif counter == 'dead' then
  local why, host = ending_of(reason)
  breaker_dead(flow, why, nil, host)
end
if redis.call('HEXISTS', flow, 'concurrency') == 0 then return with_events(1) end

--- @include "end_permits"

end_attempts(ledger, stream, {entry_id})
return with_events(1)
