--- @include "clock"
-- The bulkhead of a mailbox: its requests in flight, a sorted set: ask -> when its time is over, in ms. So none is counted for longer
-- than that, whoever dies. The rule is core/bulkhead.py. ask_ends.lua takes out what has ended.

-- How many requests are in flight, if as many as may; else nil.
local function full_bulkhead(bulkhead, most)
  redis.call('ZREMRANGEBYSCORE', bulkhead, '-inf', now_ms())
  local count = redis.call('ZCARD', bulkhead)
  if count >= most then return count end
  return nil
end

local function enter_bulkhead(bulkhead, ask, timeout_ms)
  redis.call('ZADD', bulkhead, now_ms() + timeout_ms, ask)
  redis.call('PEXPIRE', bulkhead, math.max(redis.call('PTTL', bulkhead), timeout_ms + 60000))
end
