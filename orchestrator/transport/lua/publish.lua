-- Accepts messages into one step of a mailbox.
-- KEYS: stream, ledger. ARGV: longest allowed (0: no bound), group, messages…
-- A stream with a time to live is somebody's reply queue: it has no ledger.
-- Returns the last one's id; {'refused', the first so many were accepted, why the others were not} by flow control.
local limit = tonumber(ARGV[1])
local flow = flow_of(KEYS[2])
local bounded = redis.call('EXISTS', flow) == 1
if not bounded and limit == 0 then
  local last
  for i = 3, #ARGV do last = redis.call('XADD', KEYS[1], '*', 'm', ARGV[i]) end
  if redis.call('PTTL', KEYS[1]) < 0 then redis.call('HINCRBY', KEYS[2], 'accepted', #ARGV - 2) end
  return last
end
