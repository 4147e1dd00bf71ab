-- A message that no mailbox took becomes a dead letter: accepted and dead in one step.
-- KEYS: ledger, hash of last publishes.
-- ARGV: root, queue, message, letter as JSON, reason, error type, token of the publish (see unanswered.py), text
--- @include "mailbox_entry"
--- @include "endings"
--- @include "dead_letters"
if asked_before(KEYS[2], ARGV[7]) then return ARGV[7] end
local id = bury_letter(ARGV[1], ARGV[2], ARGV[3], nil, nil, ARGV[4], ARGV[5], ARGV[6], '', ('%d'):format(now_ms()))
redis.call('HINCRBY', KEYS[1], 'accepted', 1)
redis.call('HINCRBY', KEYS[1], 'dead', 1)
end_for_celery(KEYS[1], ARGV[3], 'FAILURE', 'MessageDropped', ARGV[8])
return id
