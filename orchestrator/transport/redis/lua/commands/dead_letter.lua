-- Ends a delivery as a dead letter that holds the message byte for byte.
-- KEYS: stream, ledger; where an outcome is recorded also its key.
-- ARGV: group, entry id, root, queue, letter as JSON, reason, error type, fingerprint or '', outcome as JSON without its
-- closing brace, ms to keep the outcome; and where Celery does not know of it, error class and text for it.
-- Returns the letter's id; 0 if the entry is no longer pending, which counts as duplicated.
-- Costs: one message, decoded once.
--- @include "mailbox_entry"
--- @include "endings"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "breaker"
--- @include "dead_letters"
--- @include "end_permits"
local stream, ledger, outcome_key = KEYS[1], KEYS[2], KEYS[3]
local group, entry_id, root, queue, letter, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local error_type, fingerprint, outcome, ttl_ms, celery_error, celery_text = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]
-- Raises if it is a key of another type, as long as nothing is done: the message would be lost.
redis.call('XLEN', root .. 'dead-letters')
local entry = take(stream, group, entry_id)
if not entry then
  add_count_afterwards(ledger, 'duplicated', 1)
  return 0
end
local m, d, _, r, s = fields(entry)
-- An outcome's key is the root, `outcome:`, and the delivery.
local delivery = outcome_key and outcome_key:sub(#root + 9)
local id = add_dead_letter(root, queue, m, d, r, letter, reason, error_type, fingerprint, s, delivery)
add_count_afterwards(ledger, 'dead', 1)
if outcome_key then record(outcome_key, outcome .. ',"letter_id":"' .. id .. '"}', ttl_ms, 'dead') end
end_attempts(ledger, stream, {entry_id})
if celery_error then end_for_celery(ledger, m, 'FAILURE', celery_error, celery_text) end
breaker_dead(flow_of(ledger), reason, m)
return with_events(id)
