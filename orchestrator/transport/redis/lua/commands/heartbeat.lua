-- Renews a lease. KEYS: leases, incarnation, sweep, silent, OOM kills of its control group, endings,
-- number of endings that were dropped.
-- ARGV: id, the group's count if it has changed or '', '1' if it asks for no messages although it should, '0' if it does
-- again, '' if nothing has changed, ms after which a heartbeat is missed, field, value, … (only what has changed)
-- Returns {0} without a lease, else {1, ms since the last sweep or -1, 1 if somebody's heartbeat is missed or a death was
-- proved else 0, now, age in ms that the heartbeat before reported or 0, number of endings that Celery is still to be told
-- of, with 1 for dropped ones}
--- @include "mailbox_entry"
even_when_full(KEYS[1])
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return {0} end
-- Its age by its own clock shows a rewind: the times of leases follow Redis' clock wherever that jumps.
local before = redis.call('HGET', KEYS[2], 'age_ms') or 0
local now = now_ms()
redis.call('ZADD', KEYS[1], now, ARGV[1])
if ARGV[5] then redis.call('HSET', KEYS[2], unpack(ARGV, 5)) end
-- Of use to who judges a death within seconds, and to nobody after.
if ARGV[2] ~= '' then redis.call('SET', KEYS[5], ARGV[2], 'PX', 60000) end
if ARGV[3] == '1' then redis.call('ZADD', KEYS[4], now, ARGV[1]) end
if ARGV[3] == '0' then redis.call('ZREM', KEYS[4], ARGV[1]) end
local swept, proved = unpack(redis.call('HMGET', KEYS[3], 'at_ms', 'proved'))
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
local missed = proved or now - tonumber(oldest) > tonumber(ARGV[4])
return {1, swept and now - tonumber(swept) or -1, missed and 1 or 0, now, tonumber(before),
  KEYS[6] and redis.call('XLEN', KEYS[6]) + redis.call('EXISTS', KEYS[7]) or 0}
