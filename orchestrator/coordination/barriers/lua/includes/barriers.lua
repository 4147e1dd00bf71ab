--- @include "mailbox_entry"
--- @include "script_events"
--- @include "owners"
-- The rule of barriers: core/coordination/barrier.py over Redis, with the same names. Of each barrier:
--   barrier:NAME           hash: g, number of the present generation, or of the last one; n, parties; p, their names as JSON; m, what a
--                          death does (these three are not there after a reset for all); d, when the generation breaks in ms, 0 if nobody has arrived; b, why the barrier is broken;
--                          l, when those who wait were last looked up; c, where that goes on
--   barrier-arrived:NAME   hash: party -> when it arrived, in ms
--   barrier-waiting:NAME   hash: party whose process waits -> JSON: o, owner; e, entry; k, token
--   barrier-gone:NAME      hash: party that the generation does without -> why
--   barrier-then:NAME, barrier-if-broken:NAME
--                          hash: party -> stream, ledger, agent, delivery and text of its message, each on its own line
--   barrier-ended:GENERATION:NAME  how a generation has ended, as JSON: r, why it is broken; p, who has broken it; a, who had arrived;
--                          m, how many were missing; k, who, of parties that are declared by name. It expires.
--   barrier-rest:GENERATION:NAME   messages of a generation that has ended, which are still to be sent; as `barrier-then`
-- `barrier-call:CALLER` is the generation, the entry and the token of a caller's last arrival; it expires. `barriers-of:OWNER` is a set of
-- the names at which an owner waits, and `barriers` a sorted set of names by their last use. What is left of a name expires a week later.
local CHECK_MS, CALLS_MS, ENDED_MS, WAKE_MS, WEEK_MS = 1000, 3600000, 3600000, 5000, 604800000
-- Those who wait that one script looks up, messages that it sends, and names that it lists.
local MOST_CHECKED, MOST_SENT, MOST_NAMED = 200, 200, 100

local function open_barrier(root, name)
  local b = {root = root, name = name, now = now_ms(), state = root .. 'barrier:' .. name, arrived = root .. 'barrier-arrived:' .. name,
    waiting = root .. 'barrier-waiting:' .. name, gone = root .. 'barrier-gone:' .. name, send = root .. 'barrier-then:' .. name,
    if_broken = root .. 'barrier-if-broken:' .. name}
  local f = redis.call('HMGET', b.state, 'g', 'n', 'p', 'm', 'd', 'b', 'l')
  b.generation, b.parties, b.names = tonumber(f[1] or 0), tonumber(f[2] or 0), f[3] or '[]'
  b.on_death, b.due, b.broken, b.checked = f[4] or 'break', tonumber(f[5] or 0), f[6] or '', tonumber(f[7] or 0)
  return b
end

local function numbered(b, what, generation)
  return string.format('%sbarrier-%s:%.0f:%s', b.root, what, generation, b.name)
end

-- Sends messages of a generation that has ended, as many as one script may; returns how many are left. The sweep goes on with them.
local function send_rest(b, generation)
  local rest, sent, bytes = numbered(b, 'rest', generation), 0, 0
  for _, party in ipairs(redis.call('HKEYS', rest)) do
    if sent >= MOST_SENT or bytes >= MOST_BYTES then break end
    local text = redis.call('HGET', rest, party)
    local stream, ledger, agent, id, message = text:match('^([^\n]*)\n([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$')
    -- Its admission is not asked for, as that of a reply.
    put(stream, message)
    count_accepted(ledger, 1)
    redis.call('HDEL', rest, party)
    emit_event('barrier_sent', b.name, string.format('%.0f', generation), party, agent, id)
    sent, bytes = sent + 1, bytes + #text
  end
  local left, timer = redis.call('HLEN', rest), string.format('barrier-rest:%.0f:%s', generation, b.name)
  if left > 0 then redis.call('ZADD', b.root .. 'timers', b.now, timer) else redis.call('ZREM', b.root .. 'timers', timer) end
  return left
end

local function end_generation(b, ended, messages)
  redis.call('SET', numbered(b, 'ended', b.generation), cjson.encode(ended), 'PX', ENDED_MS)
  local waiting = redis.call('HVALS', b.waiting)
  for _, json in ipairs(waiting) do
    local one = cjson.decode(json)
    redis.call('SREM', b.root .. 'barriers-of:' .. one.o, b.name)
    redis.call('RPUSH', b.root .. 'wake:' .. one.k, '1')
    redis.call('PEXPIRE', b.root .. 'wake:' .. one.k, WAKE_MS)
  end
  local sends = redis.call('EXISTS', messages) == 1
  if sends then redis.call('RENAME', messages, numbered(b, 'rest', b.generation)) end
  redis.call('UNLINK', b.arrived, b.waiting, b.gone, b.send, b.if_broken)
  redis.call('ZREM', b.root .. 'timers', 'barrier:' .. b.name)
  b.due, b.checked = 0, 0
  redis.call('HSET', b.state, 'd', 0)
  redis.call('HDEL', b.state, 'l', 'c')
  if sends then b.left = send_rest(b, b.generation) end
end

local function trip_if_complete(b)
  local arrived = redis.call('HLEN', b.arrived)
  if arrived == 0 or arrived + redis.call('HLEN', b.gone) < b.parties then return end
  emit_event('barrier_tripped', b.name, string.format('%.0f', b.generation), tostring(arrived))
  end_generation(b, {r = ''}, b.send)
end

local function first_of(names)
  for at = #names, MOST_NAMED + 1, -1 do names[at] = nil end
  return names
end

local function missing_of(b)
  local missing = {}
  for _, name in ipairs(cjson.decode(b.names)) do
    if redis.call('HEXISTS', b.arrived, name) == 0 and redis.call('HEXISTS', b.gone, name) == 0 then missing[#missing + 1] = name end
  end
  return missing
end

local function break_generation(b, reason, party)
  local arrived = redis.call('HKEYS', b.arrived)
  local missing = math.max(0, b.parties - #arrived - redis.call('HLEN', b.gone))
  table.sort(arrived)
  local ended = {r = reason, p = party, a = first_of(arrived), m = missing, k = first_of(missing_of(b))}
  b.broken = reason
  redis.call('HSET', b.state, 'b', reason)
  emit_event('barrier_broken', b.name, string.format('%.0f', b.generation), reason, party, tostring(missing))
  end_generation(b, ended, b.if_broken)
end

-- Nobody waits for a party any more.
local function stop_waiting(b, party)
  local json = redis.call('HGET', b.waiting, party)
  if not json then return end
  redis.call('HDEL', b.waiting, party)
  local owner, waits = cjson.decode(json).o, false
  for _, other in ipairs(redis.call('HVALS', b.waiting)) do waits = waits or cjson.decode(other).o == owner end
  if not waits then redis.call('SREM', b.root .. 'barriers-of:' .. owner, b.name) end
end

-- A party that waited is dead.
local function lose(b, party, reason)
  if b.on_death == 'break' then return break_generation(b, reason, party) end
  stop_waiting(b, party)
  redis.call('HDEL', b.arrived, party)
  redis.call('HDEL', b.send, party)
  redis.call('HDEL', b.if_broken, party)
  redis.call('HSET', b.gone, party, reason)
  emit_event('barrier_shrunk', b.name, string.format('%.0f', b.generation), party, reason)
  trip_if_complete(b)
end

-- Why a waiting party is lost; false if its attempt runs.
local function why_lost(b, one)
  if life(b, one.o) ~= 'alive' then return reason_of(b, one.o) end
  return one.e ~= '' and not has_entry(one.o, one.e) and 'attempt ended'
end

-- Loses some of those who wait: those for which `why` returns a reason.
local function lose_some(b, flat, why)
  local known, parties = {}, {}
  for at = 1, #flat, 2 do
    parties[#parties + 1], known[flat[at]] = flat[at], cjson.decode(flat[at + 1])
  end
  table.sort(parties)
  for _, party in ipairs(parties) do
    local reason = b.due > 0 and why(known[party])
    if reason then lose(b, party, reason) end
  end
end

local function time_came(b)
  if b.due == 0 or b.now < b.due then return false end
  break_generation(b, 'timeout', '')
  return true
end

-- Does what nobody has reported: the generation's time is over, or one who waits does not run any more.
local function catch_up(b)
  time_came(b)
  if redis.call('EXISTS', b.waiting) == 0 or b.now < b.checked + CHECK_MS and b.checked <= b.now then return end
  b.checked = b.now
  local found = redis.call('HSCAN', b.waiting, redis.call('HGET', b.state, 'c') or '0', 'COUNT', MOST_CHECKED)
  redis.call('HSET', b.state, 'l', b.now, 'c', found[1])
  lose_some(b, found[2], function(one) return why_lost(b, one) end)
end

-- Loses a waiting party whose attempt does not run any more.
local function lose_if_dead(b, party)
  local json = b.due > 0 and redis.call('HGET', b.waiting, party)
  local reason = json and why_lost(b, cjson.decode(json))
  if reason then lose(b, party, reason) end
end

-- Records that the name was used. What is in use does not expire.
local function keep(b)
  redis.call('ZADD', b.root .. 'barriers', b.now, b.name)
  if b.due > 0 then redis.call('PERSIST', b.state) else redis.call('PEXPIRE', b.state, WEEK_MS) end
end

-- What a call about a generation finds.
local function reply_about(b, generation, party)
  local ended = redis.call('GET', numbered(b, 'ended', generation))
  if ended then return {'ended', generation, ended, b.left or 0} end
  if generation ~= b.generation or b.due == 0 then return {'lost', generation} end
  local why = redis.call('HGET', b.gone, party)
  if why then return {'left', generation, why} end
  if redis.call('HEXISTS', b.arrived, party) == 0 then return {'lost', generation} end
  return {'waiting', generation, b.due - b.now}
end
