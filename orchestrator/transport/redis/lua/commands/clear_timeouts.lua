-- Ends overrides of timeouts.
-- KEYS: overrides. ARGV: names; none for all.
-- Returns the number of overrides that were in force.
-- Costs: four commands, and one read of all overrides.
--- @include "timeout_overrides"
local overrides = KEYS[1]
local now = now_ms()
local _, number = drop_ended(overrides, now)
if #ARGV == 0 then
  redis.call('DEL', overrides)
  return number
end
local cleared = redis.call('HDEL', overrides, unpack(ARGV))
if cleared > 0 then renew_version(overrides, now) end
return cleared
