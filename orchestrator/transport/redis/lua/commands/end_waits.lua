-- Forgets waits in calls: one, or all of an incarnation that has died.
-- KEYS: asking. ARGV: incarnation, delivery or ''.
-- Returns how many there were.
-- Costs: at most 1,000 fields.
local asking, incarnation, delivery = KEYS[1], ARGV[1], ARGV[2]
if delivery ~= '' then return redis.call('HDEL', asking, incarnation .. '\n' .. delivery) end
local ended = 0
local prefix = incarnation .. '\n'
for _, field in ipairs(redis.call('HLEN', asking) <= 1000 and redis.call('HKEYS', asking) or {}) do
  if field:sub(1, #prefix) == prefix then ended = ended + redis.call('HDEL', asking, field) end
end
return ended
