--- @include "clock"
--- @include "counters"
--- @include "doorbell"
-- Entries of mailboxes, and what scripts of several kinds need.
-- Fields of an entry: m, the message byte for byte as published; d, its deaths as a JSON array, once a holder has died while
-- running it; u, the number of unattributed deaths of its holders; r, its lineage as a JSON object if it was a dead letter (see
-- dead_letters.lua); s, when it was first in the mailbox in ms, once it was returned; n, if it was returned without ever having
-- been delivered.

-- Lets the rest of the script write on a full server. A server at maxmemory refuses a script's first write if it may grow, and
-- no later one. Book-keeping, acknowledging and requeueing must go on, or a full server could never be emptied. The key must
-- not end with a user's text, or a user's key could be deleted here.
local function even_when_full(key)
  redis.call('DEL', key .. '|nothing')
end

-- Whether this publish was accepted before, and its reply lost; else records it as its connection's last. A token begins with
-- the connection (see publish_dedup.py). The hash is of one period, and outlives it.
local function is_repeated_publish(publishes, token)
  local connection = token:sub(1, 16)
  local last = redis.call('HGET', publishes, connection)
  if last == token then return true end
  redis.call('HSET', publishes, connection, token)
  if not last then redis.call('PEXPIRE', publishes, 900000) end
  return false
end

-- Forgets a publish that was refused after all, so that a repeated call is refused again.
local function forget_publish(publishes, token)
  redis.call('HDEL', publishes, token:sub(1, 16))
end

-- A script that handles several messages stops after this many bytes of them, and reports that there may be more. The time
-- that one message takes depends on its size alone.
local MOST_BYTES = 1048576

-- At most this many messages are read by one command: the size of small ones says nothing about the next.
local MOST_AT_ONCE = 4

-- How many messages to read next, after `read` of `bytes` altogether, so that large ones come one at a time.
local function next_count(read, bytes)
  return math.max(1, math.min(2 * read, MOST_AT_ONCE, math.floor((MOST_BYTES - bytes) * read / math.max(bytes, 1))))
end

-- The bytes of an entry's values.
local function size_of(entry)
  local bytes = 0
  for i = 2, #entry[2], 2 do bytes = bytes + #entry[2][i] end
  return bytes
end

-- One sweeper sweeps at a time. Its turn has a number, the fencing token: if a sweeper stalls and another takes over, every later
-- step of the first one fails because its number is stale. Each step that succeeds extends the turn. A process that ends its own
-- incarnation needs no turn.
local function turn_lost(sweep, token, turn_ms)
  if token == '' then return nil end
  if redis.call('HGET', sweep, 'sweeps') ~= token then
    return redis.error_reply('STALETURN another sweeper has taken over')
  end
  redis.call('HSET', sweep, 'turn_until_ms', now_ms() + turn_ms)
  return nil
end

-- Counts messages as accepted. A ledger that begins with them belongs to a mailbox that Redis does not list, or no longer: its
-- sender declared it before Redis lost its data.
local function count_accepted(ledger, n)
  if add_count(ledger, 'accepted', n) > n then return end
  local root, queue = ledger:match('^(.-orc:)ledger:(.*)$')
  redis.call('SADD', root .. 'queues', queue)
end

-- The key of a mailbox' flow control (see admission.lua and breaker.lua). Most mailboxes have none, and pay for a look only.
local function flow_of(ledger)
  return (ledger:gsub('orc:ledger:', 'orc:flow:', 1))
end

-- The key of an outcome's hooks (see outcome_hooks.lua).
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

-- Takes an entry out of its stream; nil if it was already settled or moved.
local function take(stream, group, id)
  if redis.call('XACK', stream, group, id) == 0 then return nil end
  local entry = redis.call('XRANGE', stream, id, id)[1]
  redis.call('XDEL', stream, id)
  return entry
end

-- Puts a message into a mailbox; returns the id of its entry.
local function put(stream, m, d, u, r, s, n)
  local entry = {'m', m}
  if d then entry[3], entry[4] = 'd', d end
  if u then entry[#entry + 1], entry[#entry + 2] = 'u', u end
  if r then entry[#entry + 1], entry[#entry + 2] = 'r', r end
  if s then entry[#entry + 1], entry[#entry + 2] = 's', s end
  if n then entry[#entry + 1], entry[#entry + 2] = 'n', n end
  local id = redis.call('XADD', stream, '*', unpack(entry))
  ring_doorbell(stream)
  return id
end

-- JSON of any origin: nil if cjson refuses it, as it does half a surrogate pair, which Python writes for a file name that is not
-- text. An error raised half-way through a script would leave half of its work undone.
local function read_json(json)
  local ok, value = pcall(cjson.decode, json or '')
  if ok and type(value) == 'table' then return value end
  return nil
end

-- A message as a table. The last one is cached, because most scripts that end a message look into it several times, and decoding
-- 1 MB takes Redis a millisecond. Only with_history writes to it.
local last_json, last_message
local function message_of(m)
  if m ~= last_json or not m then last_json, last_message = m, read_json(m) end
  return last_message
end

-- Those of a list that can be written again: cjson reads infinity and what is nested deep, and does not write it.
local function writable(list)
  local result = {}
  for _, one in ipairs(list) do
    -- In an outcome they are nested deeper than here.
    if pcall(cjson.encode, {{{one}}}) then result[#result + 1] = one end
  end
  return result
end

-- The queues that an incarnation says it serves; nil if that cannot be read.
local function queues_in(json)
  local queues = read_json(json)
  for _, queue in ipairs(queues or {}) do
    if type(queue) ~= 'string' then return nil end
  end
  return queues
end

-- Set by outcome_hooks.lua. A script that looks for hooks itself includes that later, or not at all.
local run_outcome_hooks

-- Records a tracked delivery's outcome where waiters look for it. A list of one, so that BLMOVE can wait for it. `ended` is the
-- outcome in one word, so that the JSON need not be read.
local function record(key, outcome, ttl_ms, ended)
  if redis.call('RPUSH', key, outcome) > 1 then redis.call('LTRIM', key, -1, -1) end
  redis.call('PEXPIRE', key, ttl_ms)
  if run_outcome_hooks and redis.call('EXISTS', hooks_of(key)) == 1 then
    run_outcome_hooks(key, ended, ttl_ms, outcome)
  end
end

-- The outcome as JSON, with the history of a delivery that does not end in a worker: its failed attempts, and the deaths in its
-- entry (see core/deliveries/history.py), as JSON or as a list.
local function with_history(outcome, orc, deaths)
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
  for _, name in ipairs({'failures', 'deaths'}) do
    local history = writable(outcome[name] or {})
    outcome[name] = #history > 0 and history or nil
  end
  return cjson.encode(outcome)
end

-- Records an outcome for a message whose headers say that it is tracked.
local function record_if_tracked(root, m, outcome, ttl_ms, deaths)
  local message = message_of(m)
  if not message or type(message.headers) ~= 'table' then return end
  local headers = message.headers
  if type(headers.orc) == 'table' and headers.orc.track and type(headers.id) == 'string' then
    record(root .. 'outcome:' .. headers.id, with_history(outcome, headers.orc, deaths), ttl_ms, outcome.outcome)
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

-- What was scheduled: the message, its deaths (see retry.lua), and the entry's field s.
local function scheduled(bodies, member)
  local found = redis.call('HMGET', bodies, member, member .. '|d', member .. '|s')
  return found[1] or nil, found[2] or nil, found[3] or nil
end

local function unschedule(delayed, bodies, member)
  redis.call('ZREM', delayed, member)
  redis.call('HDEL', bodies, member, member .. '|d', member .. '|s')
end
