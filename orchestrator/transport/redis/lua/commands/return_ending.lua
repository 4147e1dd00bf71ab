-- Leaves an ending for another try.
-- KEYS: taken, failed. ARGV: id, ms until it may be taken again, '1' if its delivery has failed, '0' if it was not tried
-- Returns how often it has failed.
--- @include "mailbox_entry"
redis.call('ZADD', KEYS[1], now_ms() + tonumber(ARGV[2]), ARGV[1])
return redis.call('HINCRBY', KEYS[2], ARGV[1], ARGV[3])
