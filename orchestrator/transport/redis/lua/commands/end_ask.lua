-- Ends an ask whose time has come, or that its asker gives up.
-- KEYS: ask, timers. ARGV: the ask's id; `time`, `time out` if the asker says so, or `give up` if it wants no reply.
-- Returns 1; 0 if it has ended before, or if it is not due.
-- Costs: the reply's text; a message for each copy of the request.
--- @include "clock"
--- @include "script_events"
--- @include "outcome_hooks"
local ask, timers = KEYS[1], KEYS[2]
local id, why = ARGV[1], ARGV[2]
if why == 'give up' then return with_events(asks.finish(ask, 'given_up') and 1 or 0) end
if why == 'time out' then return with_events(asks.time_out(ask) and 1 or 0) end
if now_ms() < tonumber(redis.call('ZSCORE', timers, 'ask:' .. id) or math.huge) then return 0 end
redis.call('ZREM', timers, 'ask:' .. id)
return with_events(asks.time_out(ask) and 1 or 0)
