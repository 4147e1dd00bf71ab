--- @include "mailbox_entry"
-- Shared by the scripts that touch dead letters. Letters that agree in a agent, n message's name, e error type, y reason,
-- g group (fingerprint) and q queue are of one kind, and have these from it: the hash `letters:kind-names` is kind -> its
-- values as JSON, in that order. A letter is two entries of one id:
--   in the stream `dead-letters`, the log of all: letter why (JSON), k its kind, s when it was sent (ms); and where there is
--   such a thing, d deaths (JSON), o its id where it was imported from, auto how often it was sent again automatically
--   in the stream `letters:kind:KIND`: m message byte for byte, i the delivery whose outcome tells of it, or ''; and r
--   lineage (JSON), o as above. A large message lies in the log instead, as its m.
-- So what a replay needs lies together, without anything else, and a letter is indexed once, whatever it is searched
-- by: the set `letters:agent:AGENT` has the kinds of that agent's letters, and so for each value of each dimension.
-- `letters:kinds` is a sorted set: kind -> when the last of it came, in ms.
local KIND = {'a', 'n', 'e', 'y', 'g', 'q'}
-- Where among them is what letters can be asked for by, and what it is called there.
local INDEXED = {'agent', 'message', 'error', 'reason', 'group'}
local REASON_AT, GROUP_AT, QUEUE_AT = 4, 5, 6
local HOUR_MS = 3600000
local HOURS_KEPT = 48
-- A message above this stays in the log: it exceeds a stream's block, and reading an index must not read large messages.
local LARGE = 4096
-- Nobody's headers are worth holding Redis for longer than decoding this takes.
local READABLE = 2097152

local function index_name(value)
  if #value > 100 or value:sub(1, 5) == 'sha1:' then return 'sha1:' .. redis.sha1hex(value) end
  return value
end

-- Ids as texts that sort as they do.
local function padded(id)
  local ms, seq = id:match('^(%d+)-(%d+)$')
  return ('%015d-%010d'):format(ms, seq)
end

local function row_of(entry)
  local row, flat = {id = entry[1]}, entry[2]
  for at = 1, #flat, 2 do row[flat[at]] = flat[at + 1] end
  return row
end

local function text(value)
  return type(value) == 'string' and value or ''
end

local function decoded(json)
  if not json or json == '' or #json > READABLE then return nil end
  return read_json(json)
end

-- A message, if it may be looked into here.
local function readable(m)
  if not m or m == '' or #m > READABLE then return nil end
  return message_of(m)
end

local function id_or(value, otherwise)
  if type(value) == 'string' and value:match('^%d+%-%d+$') then return value end
  return otherwise
end

local function whole(value)
  return type(value) == 'number' and value >= 0 and value < 1e9 and math.floor(value) or 0
end

local function lineage_of(lineage)
  return ('{"of":"%s","first":"%s","replays":%d,"auto":%d,"audit":"%s"}'):format(
    id_or(lineage.of, ''), id_or(lineage.first, ''), whole(lineage.replays), whole(lineage.auto), id_or(lineage.audit, ''))
end

-- The lineage of a letter that is sent again, after the one that it has.
local function lineage_after(id, lineage, audit_id, auto)
  local before = decoded(lineage) or {}
  return lineage_of({of = id, first = id_or(before.first, id), replays = whole(before.replays) + 1,
    auto = whole(before.auto) + auto, audit = audit_id})
end

-- The kind of what is to become a letter, and its values as JSON. Many letters of one script are of few kinds.
local kinds_met = {}
local function kind_of(row)
  local values = {}
  for at, name in ipairs(KIND) do values[at] = row[name] or '' end
  local names = cjson.encode(values)
  local kind = kinds_met[names]
  if not kind then
    kind = redis.sha1hex(names):sub(1, 16)
    kinds_met[names] = kind
  end
  return kind, names, values
end

-- Where a kind is found, by what it can be asked for.
local function sets_of(root, values)
  local sets = {}
  for at, dimension in ipairs(INDEXED) do
    if values[at] ~= '' then sets[#sets + 1] = root .. 'letters:' .. dimension .. ':' .. index_name(values[at]) end
  end
  return sets
end

-- What finds a letter by its kind, and counts how many arrive in an hour.
local function index_letter(root, ms, kind, names, values)
  if redis.call('ZADD', root .. 'letters:kinds', ms, kind) == 1 then
    redis.call('HSET', root .. 'letters:kind-names', kind, names)
    for _, set in ipairs(sets_of(root, values)) do redis.call('SADD', set, kind) end
  end
  local group = values[GROUP_AT]
  if group ~= '' then
    local arrivals, hour = root .. 'letters:arrivals:' .. index_name(group), math.floor(ms / HOUR_MS)
    if add_count(arrivals, hour, 1) == 1 and redis.call('HLEN', arrivals) > HOURS_KEPT then
      for _, old in ipairs(redis.call('HKEYS', arrivals)) do
        if tonumber(old) <= hour - HOURS_KEPT then redis.call('HDEL', arrivals, old) end
      end
    end
  end
end

-- Adds a row to the log and to the index; returns its id.
local function add_letter(root, row)
  local kind, names, values = kind_of(row)
  local m, large = row.m or '', #(row.m or '') > LARGE
  local auto = row.r and whole((decoded(row.r) or {}).auto) or 0
  local function with(flat, name, value)
    if value and value ~= '' then flat[#flat + 1], flat[#flat + 2] = name, value end
  end
  local why = {'letter', row.letter or '', 'k', kind, 's', row.s or ''}
  with(why, 'd', row.d)
  with(why, 'o', row.o)
  with(why, 'auto', auto > 0 and auto)
  with(why, 'm', large and m)
  local id = redis.call('XADD', root .. 'dead-letters', '*', unpack(why))
  local ms = tonumber(id:match('^%d+'))
  local again = large and {'i', row.i or ''} or {'m', m, 'i', row.i or ''}
  with(again, 'r', row.r)
  with(again, 'o', row.o)
  local of_kind = root .. 'letters:kind:' .. kind
  local added = redis.pcall('XADD', of_kind, id, unpack(again))
  if type(added) == 'table' then
    -- Something else has written it. The message would be lost, so that is set aside.
    redis.call('RENAME', of_kind, of_kind .. ':broken:' .. now_ms())
    redis.call('XADD', of_kind, id, unpack(again))
  end
  -- The message is taken out of its mailbox already: an index that is a key of another type must not stop its script.
  pcall(index_letter, root, ms, kind, names, values)
  return id
end

-- The delivery that a message is, if it may leave an outcome: only what is supervised does.
local function delivery_in(message)
  local headers = message and message.headers
  return type(headers) == 'table' and type(headers.orc) == 'table' and text(headers.id) or ''
end

-- Why a message becomes a letter, as JSON; the fields are those of letter_draft.py. `by` is nil if nobody held it.
local function why_dead(queue, reason, error, explanation, attempts, at, by)
  return cjson.encode({queue = queue, reason = reason, attempts = attempts, at = at, by = by, incarnation = by,
    error = {type = error, message = explanation}})
end

-- A message becomes a letter. `why` is the letter as JSON; agent and name are read from the message, the group is made of
-- the error and the recipient where no stack is known; d and r are as in the mailbox. `delivery` is the one whose outcome
-- the caller writes, where the message may be one that cannot be read here. Returns the letter's id.
-- What the caller writes first must be even_when_full, or XACK'ed.
local function add_dead_letter(root, queue, m, d, r, why, reason, error, group, sent_ms, delivery)
  local row = {m = m, letter = why, d = d, q = queue, e = error, y = reason, g = group, r = r, s = sent_ms, a = '', n = ''}
  local message = readable(m)
  row.i = delivery or delivery_in(message)
  local headers = message and message.headers
  if type(headers) == 'table' then
    local orc = type(headers.orc) == 'table' and headers.orc or {}
    row.a = text(orc.agent)
    row.n = text(orc.message)
    if row.n == '' then row.n = text(headers.task) end
    if not r and type(headers.orc_lineage) == 'table' then
      row.r = lineage_of(headers.orc_lineage)
    end
    -- That of a replayed letter is from before its replay. A message that was returned before its retry has both.
    if not r and type(headers.orc_sent_ms) == 'number' then
      row.s = ('%.0f'):format(math.min(headers.orc_sent_ms, tonumber(sent_ms) or headers.orc_sent_ms))
    end
  end
  if (row.g or '') == '' then row.g = redis.sha1hex(error .. '\n' .. row.a .. '.' .. row.n):sub(1, 12) end
  local lineage = decoded(row.r)
  if lineage and id_or(lineage.audit, nil) then
    local progress = root .. 'letters:audit:' .. lineage.audit
    if redis.call('EXISTS', progress) == 1 then add_count_afterwards(progress, 'dead', 1) end
  end
  return add_letter(root, row)
end

-- What the log has of a letter, and its bytes: large messages lie there.
local function letter_at(root, id)
  local entry = redis.call('XRANGE', root .. 'dead-letters', id, id)[1]
  if not entry then return nil, 0 end
  return row_of(entry), size_of(entry)
end

-- What letters of a kind agree in; nil if there is no such kind.
local function values_of(root, kind)
  return decoded(redis.call('HGET', root .. 'letters:kind-names', kind))
end

-- Forgets a kind that no letter is of any more.
local function forget_kind(root, kind)
  local values = values_of(root, kind) or {}
  redis.call('DEL', root .. 'letters:kind:' .. kind)
  redis.call('ZREM', root .. 'letters:kinds', kind)
  redis.call('HDEL', root .. 'letters:kind-names', kind)
  for _, set in ipairs(sets_of(root, values)) do redis.call('SREM', set, kind) end
  local group = values[GROUP_AT] or ''
  if group ~= '' and redis.call('EXISTS', root .. 'letters:group:' .. index_name(group)) == 0 then
    redis.call('DEL', root .. 'letters:arrivals:' .. index_name(group))
  end
end

-- Takes ids out of a kind's stream. What is done with many letters begins with the oldest, and cutting off the front is
-- one step, where each single id is searched for among a hundred. `gapless` says that no letter of the kind lies between
-- these, so that nothing but the first has to be looked at.
local function remove_ids(key, ids, gapless)
  local first = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  if first and first[1] == ids[1] then
    local last = ids[#ids]
    local same = gapless
    if not same then
      local front = redis.call('XRANGE', key, '-', last, 'COUNT', #ids + 1)
      same = #front == #ids
      for i = 1, same and #ids or 0 do same = same and front[i][1] == ids[i] end
    end
    if same then
      local ms, seq = last:match('^(%d+)-(%d+)$')
      redis.call('XTRIM', key, 'MINID', '=', ('%s-%.0f'):format(ms, tonumber(seq) + 1))
      return
    end
  end
  redis.call('XDEL', key, unpack(ids))
end

-- Takes letters out of the log and of everything beside it: their ids, kind -> its ids among them, and what imported ones
-- were called where they came from. `gapless` names kinds (see remove_ids).
local function drop_letters(root, ids, of_kind, origins, gapless)
  if #ids == 0 then return end
  if origins[1] then redis.call('HDEL', root .. 'letters:origins', unpack(origins)) end
  redis.call('XDEL', root .. 'dead-letters', unpack(ids))
  if redis.call('EXISTS', root .. 'letters:due') == 1 then redis.call('ZREM', root .. 'letters:due', unpack(ids)) end
  if redis.call('EXISTS', root .. 'letters:parked') == 1 then
    redis.call('HDEL', root .. 'letters:notes', unpack(ids))
    local members = {}
    for at, id in ipairs(ids) do members[at] = padded(id) end
    redis.call('ZREM', root .. 'letters:parked', unpack(members))
  end
  for kind, of_it in pairs(of_kind) do
    local key = root .. 'letters:kind:' .. kind
    remove_ids(key, of_it, gapless and gapless[kind])
    if redis.call('XLEN', key) == 0 then forget_kind(root, kind) end
  end
end

-- Counts what an audited action has done so far; called in the step that does it.
local function note_progress(root, audit_id, field, count)
  if audit_id ~= '' and count > 0 then
    local key = root .. 'letters:audit:' .. audit_id
    redis.call('HINCRBY', key, field, count)
    redis.call('PEXPIRE', key, 604800000)
  end
end
