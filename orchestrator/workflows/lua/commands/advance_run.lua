-- Goes on with a run's agenda, as far as one script may.
-- KEYS: run, busy runs. ARGV: uid.
-- Returns 1 if work is left, else 0.
-- Costs: at most 120 messages.
--- @include "script_events"
--- @include "runs"
local run_key, busy, uid = KEYS[1], KEYS[2], ARGV[1]
even_when_full(busy)
local run = runs.open(run_key)
if run and runs.close(run) == 1 then return with_events(1) end
redis.call('SREM', busy, uid)
return with_events(0)
