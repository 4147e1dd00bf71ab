-- Removes an ending that was delivered to Celery.
-- KEYS: endings, taken, failed. ARGV: id.
-- Returns 1 if it was there.
-- Costs: four commands.
--- @include "mailbox_entry"
local endings, taken, failed = KEYS[1], KEYS[2], KEYS[3]
local id = ARGV[1]
even_when_full(endings)
redis.call('ZREM', taken, id)
redis.call('HDEL', failed, id)
return redis.call('XDEL', endings, id)
