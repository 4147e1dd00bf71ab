-- Counts a party at a barrier, once in a generation. The last one to arrive trips it.
-- KEYS: leases, what is known of the caller's last arrival. ARGV: root, name, party, token of the call, owner, entry of the attempt or '',
-- parties, their names as JSON, what a death does, ms until the generation breaks, message for its trip or '', message for its break or ''.
-- A repeated call, with the same token, gets the same answer; so does a later attempt of a delivery that has passed.
-- Returns {'waiting', generation, ms left}, {'ended', generation, how as JSON, messages left to send}, {'left', generation, why},
-- {'lost', generation}, {'gone'}: the owner has no lease, or {'differs', parties, their names, what a death does}.
-- Costs: 1,000 parties: 3 commands for each that waits; 200 messages or 1 MB are sent.
--- @include "barriers"
local leases, call = KEYS[1], KEYS[2]
local root, name, party, token, owner, entry = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local parties, names, on_death, timeout_ms = tonumber(ARGV[7]), ARGV[8], ARGV[9], tonumber(ARGV[10])
local trip_message, broken_message = ARGV[11], ARGV[12]
even_when_full(leases)
if not redis.call('ZSCORE', leases, owner) then return {'gone'} end
local b = open_barrier(root, name)
catch_up(b)
-- Its message may be requeued before anybody has noticed the death of the attempt that waited.
lose_if_dead(b, party)

local function note_call(generation)
  redis.call('SET', call, string.format('%.0f\n%s\n%s', generation, token, entry), 'PX', CALLS_MS)
end

local earlier = redis.call('GET', call)
if earlier then
  local generation, its_token, its_entry = earlier:match('^([^\n]*)\n([^\n]*)\n(.*)$')
  generation = tonumber(generation)
  local ended = redis.call('GET', numbered(b, 'ended', generation))
  if its_token == token or its_entry ~= entry and ended and cjson.decode(ended).r == '' then
    note_call(generation)
    return with_events(reply_about(b, generation, party))
  end
end
if b.broken ~= '' then
  keep(b)
  local known = redis.call('GET', numbered(b, 'ended', b.generation)) or cjson.encode({r = b.broken})
  return with_events({'ended', b.generation, known, b.left or 0})
end
if b.parties == 0 then
  b.parties, b.names, b.on_death = parties, names, on_death
  redis.call('HSET', b.state, 'n', parties, 'p', names, 'm', on_death)
elseif b.parties ~= parties or b.names ~= names or b.on_death ~= on_death then
  return with_events({'differs', b.parties, b.names, b.on_death})
end
if b.due == 0 then
  b.generation, b.due = math.max(b.generation + 1, b.now), b.now + timeout_ms
  redis.call('HSET', b.state, 'g', string.format('%.0f', b.generation), 'd', b.due)
  redis.call('ZADD', root .. 'timers', b.due, 'barrier:' .. name)
end
redis.call('HDEL', b.gone, party)
stop_waiting(b, party)
redis.call('HSET', b.arrived, party, b.now)
if trip_message ~= '' then redis.call('HSET', b.send, party, trip_message) else redis.call('HDEL', b.send, party) end
if broken_message ~= '' then redis.call('HSET', b.if_broken, party, broken_message) else redis.call('HDEL', b.if_broken, party) end
note_call(b.generation)
trip_if_complete(b)
keep(b)
return with_events(reply_about(b, b.generation, party))
