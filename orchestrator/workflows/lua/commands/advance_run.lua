-- Does what a run has planned, as far as one script may.
-- KEYS: run, set of runs with planned work. ARGV: uid.
-- Returns 1 if work is left, else 0.
-- Costs: at most 200 messages.
--- @include "script_events"
--- @include "runs"
local run_key, busy, uid = KEYS[1], KEYS[2], ARGV[1]
local run = runs.open(run_key)
if run and runs.close(run) == 1 then return with_events(1) end
redis.call('SREM', busy, uid)
return with_events(0)
