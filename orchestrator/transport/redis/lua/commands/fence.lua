-- Ends an incarnation, unless it was heard from meanwhile. From here on its heartbeats and claims are refused.
-- KEYS: leases, dying, deaths, incarnation, sweep, silent.
-- ARGV: id, the heartbeat it is judged by or '' for its own word, reason, by, turn or '', ms a turn lasts, root, error or ''
-- Returns the reason as it was recorded, or 0.
--- @include "mailbox_entry"
even_when_full(KEYS[1])
local stale = turn_lost(KEYS[5], ARGV[5], ARGV[6])
if stale then return stale end
local beat = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not beat or (ARGV[2] ~= '' and tonumber(beat) ~= tonumber(ARGV[2])) then return 0 end
local now = now_ms()
local names = {'node', 'host', 'pid', 'agents', 'started_ms', 'app_version', 'oom_group', 'oom_kills'}
local known = {}
for i, value in ipairs(redis.call('HMGET', KEYS[4], unpack(names))) do known[names[i]] = value or '' end
local reason = ARGV[3]
if reason == 'killed' and known.oom_group ~= '' then
  -- What a neighbour in its control group has read since, against what it last read itself.
  local count = tonumber(redis.call('GET', ARGV[7] .. 'oom:' .. known.oom_group) or 0)
  if count > (tonumber(known.oom_kills) or count) then reason = 'oom' end
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[6], ARGV[1])
redis.call('HSET', KEYS[4], 'ended_ms', now, 'reason', reason)
-- Of a death that was proved nobody misses a heartbeat; whoever beats next is told to sweep.
if ARGV[5] == '' and reason ~= 'drained' and reason ~= 'deployed' then redis.call('HSET', KEYS[5], 'proved', '1') end
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', 1000, '*', 'incarnation', ARGV[1], 'reason', reason, 'by', ARGV[4],
  'last_beat_ms', beat, 'name', known.node, 'host', known.host, 'pid', known.pid, 'agents', known.agents,
  'started_ms', known.started_ms, 'app_version', known.app_version, 'error', ARGV[8])
return reason
