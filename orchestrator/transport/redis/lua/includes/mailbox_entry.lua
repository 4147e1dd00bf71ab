--- @include "clock"
-- Shared by the scripts below; Python puts it in front of each.
-- A mailbox entry has the fields m (the message, byte for byte as published); once somebody died of it, d (its
-- deaths, a JSON array); once somebody who held it died of who knows what, u (how often); if it was a dead letter, r (its
-- lineage, a JSON object; see dead_letters.lua); once it was returned, s (when it first lay in the mailbox, in ms); and n if it
-- was returned without ever having been delivered.
-- A full server (maxmemory) refuses a script's first write if it may grow; later ones it lets pass. Book-keeping,
-- acknowledging and handing on must go on, or a full server could never be emptied; so they begin with this. The key is one
-- that ends with no user's text, or what is deleted here could be somebody's.
local function even_when_full(key)
  redis.call('DEL', key .. '|nothing')
end

-- Whether just this publish was accepted before, and its answer lost; else it is written down as its connection's last. A
-- token begins with the connection (see unanswered.py). The hash is of one period, and outlives it.
local function asked_before(publishes, token)
  local connection = token:sub(1, 16)
  local last = redis.call('HGET', publishes, connection)
  if last == token then return true end
  redis.call('HSET', publishes, connection, token)
  if not last then redis.call('PEXPIRE', publishes, 900000) end
  return false
end

-- It was refused after all, and is to be refused again if it is asked again.
local function not_accepted(publishes, token)
  redis.call('HDEL', publishes, token:sub(1, 16))
end

-- A script that deals with several messages stops after so many bytes of them, and says that there may be more. What one
-- message takes depends on its size alone.
local MOST_BYTES = 1048576

-- At most so many messages are read by one command: small ones say nothing of the size of those behind them.
local MOST_AT_ONCE = 4

-- How many messages to read next, after `read` of `bytes` altogether, so that large ones come one at a time.
local function many_more(read, bytes)
  return math.max(1, math.min(2 * read, MOST_AT_ONCE, math.floor((MOST_BYTES - bytes) * read / math.max(bytes, 1))))
end

-- The bytes of an entry's values.
local function size_of(entry)
  local bytes = 0
  for i = 2, #entry[2], 2 do bytes = bytes + #entry[2][i] end
  return bytes
end

-- Sweeping is one sweeper's at a time. Its turn has a number, the fencing token: a sweeper that stalled while another
-- took over finds its number stale in every step it still takes, and each step it may take prolongs its turn.
-- Who ends its own incarnation has no turn and needs none.
local function turn_lost(sweep, token, turn_ms)
  if token == '' then return nil end
  if redis.call('HGET', sweep, 'sweeps') ~= token then
    return redis.error_reply('STALETURN another sweeper has taken over')
  end
  redis.call('HSET', sweep, 'turn_until_ms', now_ms() + turn_ms)
  return nil
end

-- Where a mailbox' flow control is (see admission.lua and breaker.lua). Most have none, and pay for looking only.
local function flow_of(ledger)
  return (ledger:gsub('orc:ledger:', 'orc:flow:', 1))
end

-- Where is kept what else happens when an outcome is recorded (see outcome_hooks.lua).
local function hooks_of(outcome)
  return (outcome:gsub('orc:outcome:', 'orc:hooks:', 1))
end

local function fields(entry)
  local m, d, u, r, s, n
  for i = 1, #entry[2], 2 do
    local name, value = entry[2][i], entry[2][i + 1]
    if name == 'm' then m = value elseif name == 'd' then d = value elseif name == 'u' then u = value
    elseif name == 'r' then r = value elseif name == 's' then s = value elseif name == 'n' then n = value end
  end
  return m, d, u, r, s or entry[1] and entry[1]:match('^%d+'), n
end

-- Takes an entry out of its stream; nil when somebody else has already settled or moved it.
local function take(stream, group, id)
  if redis.call('XACK', stream, group, id) == 0 then return nil end
  local entry = redis.call('XRANGE', stream, id, id)[1]
  redis.call('XDEL', stream, id)
  return entry
end

local function put(stream, m, d, u, r, s, n)
  local entry = {'m', m}
  if d then entry[3], entry[4] = 'd', d end
  if u then entry[#entry + 1], entry[#entry + 2] = 'u', u end
  if r then entry[#entry + 1], entry[#entry + 2] = 'r', r end
  if s then entry[#entry + 1], entry[#entry + 2] = 's', s end
  if n then entry[#entry + 1], entry[#entry + 2] = 'n', n end
  return redis.call('XADD', stream, '*', unpack(entry))
end

-- JSON in whose hand ever: nil if cjson refuses it, as it does half a surrogate pair, which Python writes of a file's name
-- that is no text. An error raised half-way through a script would leave half of what it does undone.
local function read_json(json)
  local ok, value = pcall(cjson.decode, json or '')
  if ok and type(value) == 'table' then return value end
  return nil
end

-- A message as a table. The last one is remembered, because most scripts that end a message look into it several times,
-- and decoding 1 MB takes Redis a millisecond. Nobody writes to what is read from it but with_past.
local last_json, last_message
local function message_of(m)
  if m ~= last_json or not m then last_json, last_message = m, read_json(m) end
  return last_message
end

-- Those of a list that can be written again: cjson reads infinity and what is nested deep, and does not write it.
local function writable(list)
  local kept = {}
  for _, one in ipairs(list) do
    -- In an outcome they lie deeper than here.
    if pcall(cjson.encode, {{{one}}}) then kept[#kept + 1] = one end
  end
  return kept
end

-- The queues that an incarnation says it serves; nil if that cannot be read.
local function queues_in(json)
  local queues = read_json(json)
  for _, queue in ipairs(queues or {}) do
    if type(queue) ~= 'string' then return nil end
  end
  return queues
end

-- What else happens then, where the outcome's hooks say so (see outcome_hooks.lua). A script that has no need of
-- it until it has looked itself has it later, or not at all.
local aftermath

-- Records a tracked delivery's outcome where waiters look for it. A list of one, so that BLMOVE can wait for it. `ended`
-- is the outcome in a word, for whoever need not read the JSON.
local function record(key, outcome, ttl_ms, ended)
  if redis.call('RPUSH', key, outcome) > 1 then redis.call('LTRIM', key, -1, -1) end
  redis.call('PEXPIRE', key, ttl_ms)
  if aftermath and redis.call('EXISTS', hooks_of(key)) == 1 then aftermath(key, ended, ttl_ms) end
end

-- What a delivery has behind it that does not end in a worker: its failed attempts, and the deaths in its entry
-- (see core/history.py), as they lie there or as a list.
local function with_past(outcome, orc, deaths)
  if type(deaths) == 'string' then deaths = read_json(deaths) end
  if type(orc) == 'table' and type(orc.failures) == 'table' and #orc.failures > 0 then
    outcome.failures = orc.failures
    for _, failure in ipairs(outcome.failures) do
      if type(failure) == 'table' then failure.traceback = nil end
    end
  end
  if type(deaths) == 'table' and #deaths > 0 then outcome.deaths = deaths end
  local ok, text = pcall(cjson.encode, outcome)
  if ok then return text end
  for _, past in ipairs({'failures', 'deaths'}) do
    local kept = writable(outcome[past] or {})
    outcome[past] = #kept > 0 and kept or nil
  end
  return cjson.encode(outcome)
end

-- Records an outcome for a message that says in its headers that somebody may ask for it.
local function tell(root, m, outcome, ttl_ms, deaths)
  local message = message_of(m)
  if not message or type(message.headers) ~= 'table' then return end
  local headers = message.headers
  if type(headers.orc) == 'table' and headers.orc.track and type(headers.id) == 'string' then
    record(root .. 'outcome:' .. headers.id, with_past(outcome, headers.orc, deaths), ttl_ms, outcome.outcome)
  end
end

-- Ring the bell when what was just scheduled is due before everything else: a reader that sleeps until the
-- former first one has to sleep less.
local function schedule(delayed, bodies, bell, member, body, due, d, s)
  local first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  redis.call('HSET', bodies, member, body)
  if d then redis.call('HSET', bodies, member .. '|d', d) end
  if s then redis.call('HSET', bodies, member .. '|s', s) end
  redis.call('ZADD', delayed, due, member)
  if not first[2] or due < tonumber(first[2]) then
    redis.call('XADD', bell, 'MAXLEN', 4, '*', 'b', '1')
  end
end

-- What was scheduled: the message; its deaths if somebody died of it before (see retry.lua), and the entry's field s.
local function scheduled(bodies, member)
  local found = redis.call('HMGET', bodies, member, member .. '|d', member .. '|s')
  return found[1] or nil, found[2] or nil, found[3] or nil
end

local function unschedule(delayed, bodies, member)
  redis.call('ZREM', delayed, member)
  redis.call('HDEL', bodies, member, member .. '|d', member .. '|s')
end
