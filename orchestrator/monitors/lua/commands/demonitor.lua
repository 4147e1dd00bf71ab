-- Ends a monitor. If it has ended before and its DOWN may still wait somewhere, that is marked as not wanted any more.
-- KEYS: monitors, counter, flushed, hash of last publishes.
-- ARGV: root, ref, ms to keep the mark; 0 for none, token of this call
-- Returns the owner if there was one, also when it is asked again because the first answer was lost
--- @include "monitors"
even_when_full(KEYS[1])
local answered = redis.call('HGET', KEYS[4], ARGV[4])
if answered then return answered end
local m = parsed(redis.call('HGET', KEYS[1], ARGV[2]))
if m then
  local work = begin(ARGV[1])
  unlink(work, {ARGV[2], m})
  count(work, 'manual', 1)
  finish(work)
  redis.call('HSET', KEYS[4], ARGV[4], m.owner)
  redis.call('PEXPIRE', KEYS[4], 900000)
  return m.owner
end
if tonumber(ARGV[3]) > 0 and tonumber(ARGV[2]) <= tonumber(redis.call('GET', KEYS[2]) or 0) then
  redis.call('SET', KEYS[3], '1', 'PX', ARGV[3])
end
return nil
