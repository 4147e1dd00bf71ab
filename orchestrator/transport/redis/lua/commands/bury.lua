-- Ends a delivery as a dead letter that holds the message byte for byte.
-- KEYS: stream, ledger, outcome or ''.
-- ARGV: group, id, root, queue, letter as JSON, reason, error type, fingerprint or '', outcome as JSON without its
-- closing brace, ms to keep the outcome; and where Celery does not know of it, error class and text for it
--- @include "mailbox_entry"
--- @include "endings"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "breaker"
--- @include "dead_letters"
local entry = take(KEYS[1], ARGV[1], ARGV[2])
if not entry then
  redis.call('HINCRBY', KEYS[2], 'duplicated', 1)
  return 0
end
local m, d, _, r, s = fields(entry)
-- An outcome's key is the root, `outcome:`, and the delivery.
local told = KEYS[3] ~= '' and KEYS[3]:sub(#ARGV[3] + 9) or nil
local id = bury_letter(ARGV[3], ARGV[4], m, d, r, ARGV[5], ARGV[6], ARGV[7], ARGV[8], s, told)
redis.call('HINCRBY', KEYS[2], 'dead', 1)
if KEYS[3] ~= '' then record(KEYS[3], ARGV[9] .. ',"letter_id":"' .. id .. '"}', ARGV[10], 'dead') end
if ARGV[11] then end_for_celery(KEYS[2], m, 'FAILURE', ARGV[11], ARGV[12]) end
breaker_dead(flow_of(KEYS[2]), ARGV[6])
return answer(id)
