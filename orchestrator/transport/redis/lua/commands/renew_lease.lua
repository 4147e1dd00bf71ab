-- The heart of an incarnation renews its lease: its process is at work, or its connection has just been opened again.
-- KEYS: leases, incarnation. ARGV: id, the heart's connection
-- Returns 0 when fenced.
--- @include "mailbox_entry"
even_when_full(KEYS[1])
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], now_ms(), ARGV[1])
redis.call('HSET', KEYS[2], 'heart', ARGV[2])
return 1
