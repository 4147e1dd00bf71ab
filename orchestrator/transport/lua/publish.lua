-- Accepts messages into one step of a mailbox.
-- KEYS: stream, ledger, and for a single message its connection's last publish.
-- ARGV: longest allowed (0: no bound), token of the publish (see unanswered.py), messages…
-- A stream with a time to live is somebody's reply queue: it has no ledger.
-- Returns the last one's id; {'refused', the first so many were accepted, why the others were not} by flow control.
-- Asked twice, because the first answer was lost: it is accepted once, and the token is returned.
if KEYS[3] and redis.call('SET', KEYS[3], ARGV[2], 'PX', 600000, 'GET') == ARGV[2] then return ARGV[2] end
local limit = tonumber(ARGV[1])
local flow = KEYS[2]:gsub('orc:ledger:', 'orc:flow:', 1)
local bounded = redis.call('EXISTS', flow) == 1
if not bounded and limit == 0 then
  local last
  for i = 3, #ARGV do last = redis.call('XADD', KEYS[1], '*', 'm', ARGV[i]) end
  if redis.call('PTTL', KEYS[1]) < 0 then redis.call('HINCRBY', KEYS[2], 'accepted', #ARGV - 2) end
  return last
end
