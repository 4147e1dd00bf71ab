-- Has Celery be given, later, the end of a message that its own worker could not give it.
-- KEYS: ledger. ARGV: message, Celery's state, error class, text
--- @include "mailbox_entry"
--- @include "endings"
end_for_celery(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], true)
return 1
