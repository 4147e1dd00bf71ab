-- Leaves an ending for another try.
-- KEYS: taken, failed. ARGV: id, ms until it may be taken again, '1' if its delivery has failed, '0' if it was not tried.
-- Returns the number of failed deliveries.
-- Costs: two commands.
--- @include "clock"
local taken, failed = KEYS[1], KEYS[2]
local id, wait_ms, failures = ARGV[1], ARGV[2], ARGV[3]
redis.call('ZADD', taken, now_ms() + tonumber(wait_ms), id)
return redis.call('HINCRBY', failed, id, failures)
