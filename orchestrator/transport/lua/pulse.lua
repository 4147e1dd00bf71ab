-- The heart of an incarnation speaks for it: its process is at work, or its connection has just been opened again.
-- KEYS: leases, incarnation. ARGV: id, the heart's connection
-- Returns 0 when fenced.
even_when_full(KEYS[1])
local beat = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not beat then return 0 end
-- The process compares its last heartbeat with the one that Redis has: is that from before a rewind?
redis.call('HSETNX', KEYS[2], 'own_beat_ms', beat)
redis.call('ZADD', KEYS[1], now_ms(), ARGV[1])
redis.call('HSET', KEYS[2], 'heart', ARGV[2])
return 1
