-- Sends a dead letter again: out of the log and into its mailbox in one step.
-- KEYS: dead letters, stream, ledger, queues. ARGV: letter id, message, queue
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
put(KEYS[2], ARGV[2])
redis.call('HINCRBY', KEYS[3], 'accepted', 1)
redis.call('SADD', KEYS[4], ARGV[3])
return 1
