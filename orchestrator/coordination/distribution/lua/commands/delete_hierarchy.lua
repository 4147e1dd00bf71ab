-- Forgets a hierarchy.
-- KEYS: hierarchies, hash of last publishes. ARGV: name, token of this call.
-- Returns 1 if there was one, also to a repeated call; else 0.
-- Costs: four commands.
--- @include "recorded_answers"
local hierarchies, publishes = KEYS[1], KEYS[2]
local name, token = ARGV[1], ARGV[2]
if recorded_answer(publishes, token) then return 1 end
if redis.call('HDEL', hierarchies, name) == 0 then return 0 end
record_answer(publishes, token, '1')
return 1
