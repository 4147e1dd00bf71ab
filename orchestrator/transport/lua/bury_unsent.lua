-- A message that no mailbox took becomes a dead letter: accepted and dead in one step.
-- KEYS: ledger. ARGV: root, queue, message, letter as JSON, reason, error type
local id = bury_letter(ARGV[1], ARGV[2], ARGV[3], '', ARGV[4], ARGV[5], ARGV[6], '', ('%d'):format(now_ms()))
redis.call('HINCRBY', KEYS[1], 'accepted', 1)
redis.call('HINCRBY', KEYS[1], 'dead', 1)
return id
