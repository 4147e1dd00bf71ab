-- Accepts messages into one step of a mailbox.
-- KEYS: stream, ledger, and for a single message the hash of last publishes.
-- ARGV: longest allowed (0: no bound), token of the publish (see unanswered.py), messages…
-- A stream with a time to live is somebody's reply queue: it has no ledger.
-- Returns the last one's id; {'refused', the first so many were accepted, why the others were not} by flow control.
-- Asked twice, because the first answer was lost: it is accepted once, and the token is returned.
if KEYS[3] then
  -- As asked_before() in entry.lua, which Redis need not even make for most messages.
  local connection = ARGV[2]:sub(1, 16)
  local last = redis.call('HGET', KEYS[3], connection)
  if last == ARGV[2] then return last end
  redis.call('HSET', KEYS[3], connection, ARGV[2])
  if not last then redis.call('PEXPIRE', KEYS[3], 900000) end
end
local limit = tonumber(ARGV[1])
local flow = KEYS[2]:gsub('orc:ledger:', 'orc:flow:', 1)
local bounded = redis.call('EXISTS', flow) == 1
if not bounded and limit == 0 then
  local last
  for i = 3, #ARGV do last = redis.call('XADD', KEYS[1], '*', 'm', ARGV[i]) end
  if redis.call('PTTL', KEYS[1]) < 0 then redis.call('HINCRBY', KEYS[2], 'accepted', #ARGV - 2) end
  return last
end
