-- Ends deliveries that leave nothing behind but a count.
-- KEYS: stream, ledger. ARGV: group, outcome (with a blank and the reason behind it, where there is one), ids…
-- An id that is no longer pending was taken back meanwhile: its work was done twice, and is counted as that.
--- @include "mailbox_entry"
local ids = {unpack(ARGV, 3)}
local ended = redis.call('XACK', KEYS[1], ARGV[1], unpack(ids))
redis.call('XDEL', KEYS[1], unpack(ids))
local counted = redis.call('PTTL', KEYS[1]) == -1
if counted and ended > 0 then redis.call('HINCRBY', KEYS[2], ARGV[2]:match('^%S+'), ended) end
if counted and ended < #ids then redis.call('HINCRBY', KEYS[2], 'duplicated', #ids - ended) end
local flow = flow_of(KEYS[2])
if ended == 0 or redis.call('EXISTS', flow) == 0 then return ended end

--- @include "script_events"
--- @include "outcome_hooks"
--- @include "breaker"

-- The rest of settle.lua, where a breaker is to be told.
if ARGV[2] == 'handled' then
  breaker_succeeded(flow)
elseif ARGV[2]:sub(1, 4) == 'dead' then
  for _ = 1, ended do breaker_dead(flow, ARGV[2]:sub(6)) end
end
return answer(ended)
