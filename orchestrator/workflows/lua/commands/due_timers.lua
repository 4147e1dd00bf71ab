-- Reads timers that are due; control_run.lua takes each out as it acts on it.
-- KEYS: timers. ARGV: how many at most.
-- Returns their members.
-- Costs: one command.
--- @include "clock"
local timers, most = KEYS[1], ARGV[1]
return redis.call('ZRANGEBYSCORE', timers, '-inf', now_ms(), 'LIMIT', 0, most)
