-- Removes an ending that Celery has been given.
-- KEYS: endings, taken, failed. ARGV: id
--- @include "mailbox_entry"
even_when_full(KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
return redis.call('XDEL', KEYS[1], ARGV[1])
