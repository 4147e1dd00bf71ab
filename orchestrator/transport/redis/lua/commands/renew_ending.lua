-- Prolongs the time that a worker has for the ending that it is delivering.
-- KEYS: taken. ARGV: id, ms from now
--- @include "mailbox_entry"
return redis.call('ZADD', KEYS[1], 'XX', now_ms() + tonumber(ARGV[2]), ARGV[1])
