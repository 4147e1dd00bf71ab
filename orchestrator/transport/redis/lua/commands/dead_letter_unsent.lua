-- Makes a message that no mailbox took a dead letter: accepted and dead in one step.
-- KEYS: ledger, hash of last publishes.
-- ARGV: root, queue, message, letter as JSON, reason, error type, token of the publish (see publish_dedup.py), text.
-- Returns the letter's id; the token if the call is repeated.
-- Costs: one message, decoded once.
--- @include "mailbox_entry"
--- @include "endings"
--- @include "dead_letters"
local ledger, publishes = KEYS[1], KEYS[2]
local root, queue, message, letter, reason, error_type = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local token = ARGV[7]
local text_of_error = ARGV[8]
if is_repeated_publish(publishes, token) then return token end
local id = add_dead_letter(root, queue, message, nil, nil, letter, reason, error_type, '', ('%d'):format(now_ms()))
add_count(ledger, 'accepted', 1)
add_count(ledger, 'dead', 1)
end_for_celery(ledger, message, 'FAILURE', 'MessageDropped', text_of_error)
return id
