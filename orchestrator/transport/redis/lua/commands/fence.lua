-- Ends an incarnation, unless a heartbeat has come meanwhile. From here on its heartbeats and claims are refused.
-- KEYS: leases, dying, deaths, incarnation, sweep, not_polling.
-- ARGV: id, the heartbeat that it is judged by or '' if it is known to have ended, reason, by, turn or '', ms a turn lasts, root,
-- error or ''.
-- Returns the reason as it was recorded, or 0.
-- If its process is known to have ended, a turn of one of that process' sweepers ends, too.
-- Costs: twelve commands, and one for each of its agents and mailboxes.
--- @include "mailbox_entry"
--- @include "enter_host"
--- @include "servers"
local leases, dying, deaths, incarnation_key, sweep, not_polling = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local id, judged_beat, judged_reason, by, turn, turn_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local root, error = ARGV[7], ARGV[8]
even_when_full(leases)
local stale = turn_lost(sweep, turn, turn_ms)
if stale then return stale end
local beat = redis.call('ZSCORE', leases, id)
if not beat or (judged_beat ~= '' and tonumber(beat) ~= tonumber(judged_beat)) then return 0 end
local now = now_ms()
local names = {'node', 'host', 'pid', 'agents', 'queues', 'started_ms', 'app_version', 'oom_group', 'oom_kills'}
local known = {}
-- A record that something else has overwritten must not keep a death from being recorded.
local known_of = redis.pcall('HMGET', incarnation_key, unpack(names))
for i, name in ipairs(names) do known[name] = known_of[i] or '' end
local reason = judged_reason
-- Whoever names an error, as a supervisor does, has seen the end itself, and knows better.
if reason == 'killed' and error == '' and known.oom_group ~= '' then
  -- What a neighbour in its control group has read since, against what it last read itself.
  local count = redis.pcall('GET', root .. 'oom:' .. known.oom_group)
  count = tonumber(type(count) == 'string' and count or 0) or 0
  if count > (tonumber(known.oom_kills) or count) then reason = 'oom' end
end
redis.call('ZADD', dying, now, id)
redis.call('ZREM', leases, id)
-- From here on it is fenced. What is told of it may be keys of another type.
redis.pcall('ZREM', not_polling, id)
pcall(enter_host, root, id, known.agents, '')
pcall(enter_servers, root, id, known.queues, '')
redis.pcall('HSET', incarnation_key, 'ended_ms', now, 'reason', reason)
if turn == '' and reason ~= 'drained' and reason ~= 'deployed' then
  -- No heartbeat is missed after a proved death, so the next heartbeat's reply asks for a sweep.
  redis.call('HSET', sweep, 'proved', '1')
  local sweeper = redis.call('HGET', sweep, 'turn_of')
  if sweeper and sweeper:find(known.host .. ':' .. known.pid .. ':', 1, true) == 1 then
    redis.call('HDEL', sweep, 'turn_of', 'turn_until_ms')
  end
end
redis.pcall('XADD', deaths, 'MAXLEN', '~', 1000, '*', 'incarnation', id, 'reason', reason, 'by', by,
  'last_beat_ms', beat, 'name', known.node, 'host', known.host, 'pid', known.pid, 'agents', known.agents,
  'started_ms', known.started_ms, 'app_version', known.app_version, 'error', error)
return reason
