-- Sends a dead letter again: out of the log and into its mailbox in one step.
-- KEYS: dead letters, stream, ledger, queues. ARGV: letter id, message, queue
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return 0 end
-- A letter is never dropped for want of room: it stays one.
local door = open_door(flow_of(KEYS[3]), 1, true)
if door and door.take == 0 then return answer(refused(door)) end
redis.call('XDEL', KEYS[1], ARGV[1])
put(KEYS[2], ARGV[2])
redis.call('HINCRBY', KEYS[3], 'accepted', 1)
redis.call('SADD', KEYS[4], ARGV[3])
if door then close_door(door) end
return answer(1)
