-- Ends overrides of timeouts.
-- KEYS: overrides, hash of last publishes. ARGV: token of this call; names, none for all.
-- Returns the number of overrides that were in force; to a repeated call the number that its first one has ended.
-- Costs: seven commands, and one read of all overrides.
--- @include "recorded_answers"
--- @include "timeout_overrides"
local overrides, publishes = KEYS[1], KEYS[2]
local token = ARGV[1]
local answered = recorded_answer(publishes, token)
if answered then return tonumber(answered) end
local now = now_ms()
local _, cleared = drop_ended(overrides, now)
if #ARGV == 1 then
  redis.call('DEL', overrides)
else
  cleared = redis.call('HDEL', overrides, unpack(ARGV, 2))
  if cleared > 0 then renew_version(overrides, now) end
end
record_answer(publishes, token, cleared)
return cleared
