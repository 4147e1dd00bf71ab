-- Ends an incarnation, unless it was heard from meanwhile. From here on its heartbeats and claims are refused.
-- KEYS: leases, dying, deaths, incarnation, sweep.
-- ARGV: id, the heartbeat it is judged by or '' for its own word, reason, by, turn or '', ms a turn lasts
even_when_full(KEYS[1])
local stale = turn_lost(KEYS[5], ARGV[5], ARGV[6])
if stale then return stale end
local beat = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not beat or (ARGV[2] ~= '' and tonumber(beat) ~= tonumber(ARGV[2])) then return 0 end
local now = now_ms()
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[4], 'ended_ms', now, 'reason', ARGV[3])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', 1000, '*', 'incarnation', ARGV[1], 'reason', ARGV[3], 'by', ARGV[4],
  'last_beat_ms', beat, 'name', redis.call('HGET', KEYS[4], 'node') or '')
return 1
