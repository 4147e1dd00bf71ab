-- Leaves a message's end for another worker to deliver to Celery, because its own worker could not.
-- KEYS: ledger. ARGV: message, Celery's state, error class, text.
-- Returns 1.
-- Costs: one message, decoded once.
--- @include "endings"
local ledger = KEYS[1]
local message, state, error_class = ARGV[1], ARGV[2], ARGV[3]
local text = ARGV[4]
end_for_celery(ledger, message, state, error_class, text, true)
return 1
