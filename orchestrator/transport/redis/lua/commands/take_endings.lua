-- Takes endings for one worker to deliver; until its time is over, no other worker gets them.
-- KEYS: endings, taken. ARGV: ms a worker has, ids…
-- Returns the ids that it got.
-- Costs: three commands an id.
--- @include "clock"
local endings, taken = KEYS[1], KEYS[2]
local hold_ms = ARGV[1]
local FIRST_ID = 2
local got, now = {}, now_ms()
for i = FIRST_ID, #ARGV do
  local until_ms = redis.call('ZSCORE', taken, ARGV[i])
  if not (until_ms and tonumber(until_ms) > now) and redis.call('XRANGE', endings, ARGV[i], ARGV[i])[1] then
    redis.call('ZADD', taken, now + tonumber(hold_ms), ARGV[i])
    got[#got + 1] = ARGV[i]
  end
end
return got
