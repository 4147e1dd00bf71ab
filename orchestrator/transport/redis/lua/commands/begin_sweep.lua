-- First half of a sweep: whose heartbeat is late?
-- KEYS: leases, sweep, silent. ARGV: suspect after ms, longest gap between sweeps in ms, grace for a closed connection in ms,
-- grace for a silent one in ms, who sweeps, root, the sweeper, ms a turn lasts
-- After a gap (nobody swept, Redis hung or restarted, a clock jumped) silence proves nothing: the living get time
-- to be heard first.
-- Returns {0} while it is another sweeper's turn, else
-- {turn, now, 1 if closed connections count, 1 if silence counts, ms since the last sweep or -1,
-- how many beat but ask for no messages, {id, beat, its connection, its heart's or '', its round trip in ms}, …}
--- @include "mailbox_entry"
even_when_full(KEYS[1])
local now = now_ms()
local turn_ms = tonumber(ARGV[8])
local turn_until = tonumber(redis.call('HGET', KEYS[2], 'turn_until_ms') or 0)
-- A turn that lasts longer than any turn does is one from before a clock jumped.
if turn_until > now and turn_until <= now + turn_ms and redis.call('HGET', KEYS[2], 'turn_of') ~= ARGV[7] then
  return {0}
end
local last = tonumber(redis.call('HGET', KEYS[2], 'at_ms') or -1)
if last < 0 or now < last or now - last > tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[2], 'closed_counts_ms', now + ARGV[3], 'silence_counts_ms', now + ARGV[4])
end
redis.call('HSET', KEYS[2], 'at_ms', now, 'by', ARGV[5], 'turn_of', ARGV[7], 'turn_until_ms', now + turn_ms)
redis.call('HDEL', KEYS[2], 'proved')
local turn = redis.call('HINCRBY', KEYS[2], 'sweeps', 1)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now + 1000, '+inf')) do
  redis.call('ZADD', KEYS[1], now, id)
end
local function counts(field)
  return now >= tonumber(redis.call('HGET', KEYS[2], field) or 0) and 1 or 0
end
local out = {turn, now, counts('closed_counts_ms'), counts('silence_counts_ms'), last < 0 and -1 or now - last,
  redis.call('ZCARD', KEYS[3])}
local late = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[1]), 'WITHSCORES', 'LIMIT', 0, 1000)
for i = 1, #late, 2 do
  local known = redis.call('HMGET', ARGV[6] .. 'incarnation:' .. late[i], 'client', 'heart', 'round_trip_ms')
  out[#out + 1] = {late[i], late[i + 1], known[1] or '', known[2] or '', known[3] or '0'}
end
return out
