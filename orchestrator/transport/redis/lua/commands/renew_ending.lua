-- Extends the time that a worker has for the ending that it is delivering.
-- KEYS: taken. ARGV: id, ms from now.
-- Returns 0.
-- Costs: one command.
--- @include "clock"
local taken = KEYS[1]
local id, hold_ms = ARGV[1], ARGV[2]
return redis.call('ZADD', taken, 'XX', now_ms() + tonumber(hold_ms), id)
