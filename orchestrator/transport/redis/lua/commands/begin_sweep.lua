-- First half of a sweep: takes the turn, and finds the incarnations whose heartbeat is late.
-- KEYS: leases, sweep, not_polling.
-- ARGV: ms after which a heartbeat is late, longest gap between sweeps in ms, grace for a closed connection in ms, grace
-- for an old heartbeat in ms, who sweeps (for the log), root, the sweeper ("HOST:PID:" and
-- more), ms a turn lasts, the sweeper's connection or ''.
-- Returns {0, turn, connection} of the other sweeper if it is its turn, else {turn, now, 1 if closed connections count, 1 if old heartbeats count, ms since
-- the last sweep or -1, number of incarnations that send heartbeats but do not consume, {id, heartbeat, its connection, its
-- heart's or '', its round trip in ms}, …}.
-- After a gap (no sweeper, a stopped Redis, a clock that jumped) old heartbeats prove nothing until the graces are over. A new run of
-- the server is one for old heartbeats, however short: a lease may be shorter than the longest gap.
-- It asks the server itself which run it is: the caller's connection may be opened anew, to another run, on the way.
-- Costs: at most 1,000 late incarnations.
--- @include "mailbox_entry"
local leases, sweep, not_polling = KEYS[1], KEYS[2], KEYS[3]
local late_ms, gap_ms, closed_grace_ms, old_heartbeat_grace_ms, by, root = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local sweeper = ARGV[7]
local turn_ms, connection = tonumber(ARGV[8]), ARGV[9]
even_when_full(leases)
local now = now_ms()
local turn_until = tonumber(redis.call('HGET', sweep, 'turn_until_ms') or 0) or 0
-- A turn that lasts longer than any turn does is one from before a clock jumped.
if turn_until > now and turn_until <= now + turn_ms and redis.call('HGET', sweep, 'turn_of') ~= sweeper then
  local of = redis.call('HMGET', sweep, 'sweeps', 'turn_connection')
  return {0, tonumber(of[1] or 0) or 0, of[2] or ''}
end
local last = tonumber(redis.call('HGET', sweep, 'at_ms') or -1) or -1
if last < 0 or now < last or now - last > tonumber(gap_ms) then
  redis.call('HSET', sweep, 'closed_counts_ms', now + closed_grace_ms, 'old_heartbeat_counts_ms', now + old_heartbeat_grace_ms)
end
-- Not allowed everywhere (ACL, a managed Redis).
local info = redis.pcall('INFO', 'server')
local server = type(info) == 'string' and info:match('run_id:(%w+)')
if server then
  if (redis.call('HGET', sweep, 'server') or server) ~= server then
    redis.call('HSET', sweep, 'old_heartbeat_counts_ms', now + old_heartbeat_grace_ms)
  end
  redis.call('HSET', sweep, 'server', server)
end
redis.call('HSET', sweep, 'at_ms', now, 'by', by, 'turn_of', sweeper, 'turn_until_ms', now + turn_ms,
  'turn_connection', connection)
redis.call('HDEL', sweep, 'proved')
local turn = redis.pcall('HINCRBY', sweep, 'sweeps', 1)
if type(turn) == 'table' then
  -- It is no number any more. Redis' clock is later than every turn before.
  turn = now
  redis.call('HSET', sweep, 'sweeps', turn)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, now + 1000, '+inf')) do
  redis.call('ZADD', leases, now, id)
end
local function counts(field)
  return now >= (tonumber(redis.call('HGET', sweep, field) or 0) or 0) and 1 or 0
end
-- Neither a list of who does not consume nor one record may keep the dead from being found.
local stuck = redis.pcall('ZCARD', not_polling)
local out = {turn, now, counts('closed_counts_ms'), counts('old_heartbeat_counts_ms'), last < 0 and -1 or now - last,
  type(stuck) == 'number' and stuck or 0}
local late = redis.call('ZRANGEBYSCORE', leases, '-inf', now - tonumber(late_ms), 'WITHSCORES', 'LIMIT', 0, 1000)
for i = 1, #late, 2 do
  local known = redis.pcall('HMGET', root .. 'incarnation:' .. late[i], 'client', 'heart', 'round_trip_ms')
  out[#out + 1] = {late[i], late[i + 1], known[1] or '', known[2] or '', tonumber(known[3] or 0) or 0}
end
return out
