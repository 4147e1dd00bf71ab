-- Says whether a sweep is needed, to a process that sends no heartbeats. Changes nothing.
-- KEYS: sweep, leases. ARGV: ms after which a heartbeat is missed.
-- Returns {ms since the last sweep or -1, 2 if a death was proved since, 1 if a heartbeat is missed, else 0}.
-- Costs: three commands.
--- @include "clock"
--- @include "sweep_state"
local sweep, leases = KEYS[1], KEYS[2]
local missed_ms = ARGV[1]
return {sweep_state(sweep, leases, missed_ms, now_ms())}
