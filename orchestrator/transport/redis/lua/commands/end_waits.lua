-- Forgets waits in calls: one, or all of an incarnation that has died.
-- KEYS: the incarnation's waits. ARGV: delivery or ''.
-- Returns how many there were.
-- Costs: two commands.
local asking, delivery = KEYS[1], ARGV[1]
if delivery ~= '' then return redis.call('HDEL', asking, delivery) end
local count = redis.call('HLEN', asking)
redis.call('UNLINK', asking)
return count
