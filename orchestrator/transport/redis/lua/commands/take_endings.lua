-- Takes endings for one worker to deliver; until its time is over, no other worker gets them.
-- KEYS: endings, taken. ARGV: ms a worker has, ids…
-- Returns the ids that it got.
--- @include "mailbox_entry"
local got, now = {}, now_ms()
for i = 2, #ARGV do
  local until_ms = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if not (until_ms and tonumber(until_ms) > now) and redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1] then
    redis.call('ZADD', KEYS[2], now + tonumber(ARGV[1]), ARGV[i])
    got[#got + 1] = ARGV[i]
  end
end
return got
