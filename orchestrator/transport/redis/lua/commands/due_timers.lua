-- Reads timers that are due; the script that acts on one takes it out.
-- KEYS: timers. ARGV: how many of the first ones to skip, how many at most.
-- Returns their members: a kind, a colon, and what it is a timer of.
-- Costs: one command.
--- @include "clock"
local timers, skip, most = KEYS[1], ARGV[1], ARGV[2]
return redis.call('ZRANGEBYSCORE', timers, '-inf', now_ms(), 'LIMIT', skip, most)
