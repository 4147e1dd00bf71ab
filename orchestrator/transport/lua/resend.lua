-- Sends letters again: each is out of the log and in its mailbox in one step, so whoever comes second finds nothing.
-- What is moved at a time is bounded.
local MOST_BYTES = 1048576

-- What it takes to send a letter again, of its entry in its kind's stream.
local function row_again(root, kind, entry)
  local flat = entry[2]
  local row = {id = entry[1], k = kind, m = nil, i = nil}
  for at = 1, #flat, 2 do row[flat[at]] = flat[at + 1] end
  if not row.m then row.m = (letter_at(root, row.id) or {}).m end
  return row
end

-- The same by its id; nil if there is no such letter.
local function row_by(root, id)
  local row = letter_at(root, id)
  local entry = row and row.k and redis.call('XRANGE', root .. 'letters:kind:' .. row.k, id, id)[1]
  return entry and row_again(root, row.k, entry) or row
end

-- The letters with these ids, in their order, and how many ids it came to. By its place, an id's kind and its entry in the
-- kind's stream, where they are known.
local function rows_to_send(root, ids, kinds, entries)
  local rows, bytes = {}, 0
  for at, id in ipairs(ids) do
    if bytes >= MOST_BYTES then return rows, at - 1 end
    local entry = entries and entries[at]
    local row
    if entry then row = row_again(root, kinds[at], entry) else row = row_by(root, id) end
    if row then
      bytes = bytes + #(row.m or '')
      rows[#rows + 1] = row
    end
  end
  return rows, #ids
end

-- Where a letter goes; '' if it does not say.
local queues_of = {}
local function queue_of(root, row)
  if not row.k then return text((decoded(row.letter) or {}).queue) end
  local queue = queues_of[row.k]
  if not queue then
    queue = (values_of(root, row.k) or {})[QUEUE_AT] or ''
    queues_of[row.k] = queue
  end
  return queue
end

-- Who asks for a delivery must not find how its last life ended. Only an outcome that tells of this very letter goes.
-- Most letters are older than outcomes get, so all are asked about at once.
local function forget_outcomes(root, rows)
  local keys, of = {}, {}
  for _, row in ipairs(rows) do
    if row.i and row.i ~= '' then
      keys[#keys + 1] = root .. 'outcome:' .. row.i
      of[#keys] = row
    end
  end
  if not keys[1] or redis.call('EXISTS', unpack(keys)) == 0 then return end
  for at, key in ipairs(keys) do
    local outcome, row = redis.pcall('LINDEX', key, -1), of[at]
    -- A key of another type is no outcome's.
    if type(outcome) == 'string' and (outcome:find('"letter_id":"' .. row.id .. '"', 1, true)
        or row.o and outcome:find('"letter_id":"' .. row.o .. '"', 1, true)) then
      redis.call('DEL', key)
    end
  end
end

-- How: root, step, act, auto ('1' if automatic, else '0'), watched (somebody watches the outcomes), instead (a message
-- instead of the letter's, or ''), gapless (see drop_letters; of a kind's letters, only the last are ever kept).
-- Returns {{queue, {id, …}, {entry in the mailbox, …}, {delivery, …}}, …}, the last two only if watched, and
-- {{queue, why, {id, …}}, …}. What flow control refuses stays a letter, as the second list says: nothing is dropped for
-- want of room. What names no queue stays too.
local function resend(how, rows)
  local root, watched = how.root, how.watched
  local wanted, sent, kept, gone = {}, {}, {}, {}
  even_when_full(root .. 'dead-letters')
  for _, row in ipairs(rows) do
    local queue = queue_of(root, row)
    local of_queue = wanted[queue]
    if of_queue then of_queue[#of_queue + 1] = row elseif queue ~= '' then wanted[queue] = {row} end
  end
  -- The lineage of a letter that was never sent again before, but for its id.
  local first_replay = '","replays":1,"auto":' .. how.auto .. ',"act":"' .. id_or(how.act, '') .. '"'
    .. (watched and ',"watched":true}' or '}')
  for queue, of_queue in pairs(wanted) do
    local ledger, stream = root .. 'ledger:' .. queue, root .. 'q:' .. how.step .. ':' .. queue
    local door = open_door(flow_of(ledger), #of_queue, true)
    local take = door and door.take or #of_queue
    local ids, entries, deliveries = {}, {}, {}
    for at = 1, take do
      local row = of_queue[at]
      local lineage
      if row.r then
        lineage = lineage_after(row, how.act, tonumber(how.auto))
        if watched then lineage = lineage:sub(1, -2) .. ',"watched":true}' end
      else
        lineage = '{"of":"' .. row.id .. '","first":"' .. row.id .. first_replay
      end
      local entry = redis.call('XADD', stream, '*', 'm', wrapped(how.instead ~= '' and how.instead or row.m or '', lineage))
      ids[at] = row.id
      gone[#gone + 1] = row
      if watched then entries[at], deliveries[at] = entry, delivery_in(decoded(row.m)) end
    end
    -- The outcome of its last life must not be taken for the next one's.
    for _, delivery in ipairs(deliveries) do
      if delivery ~= '' then redis.call('DEL', root .. 'outcome:' .. delivery) end
    end
    if take > 0 then
      redis.call('HINCRBY', ledger, 'accepted', take)
      redis.call('SADD', root .. 'queues', queue)
      sent[#sent + 1] = {queue, ids, entries, deliveries}
    end
    if take < #of_queue then
      local refused = {}
      for at = take + 1, #of_queue do refused[#refused + 1] = of_queue[at].id end
      kept[#kept + 1] = {queue, door.refusal, refused}
    end
    if door then close_door(door) end
  end
  forget_outcomes(root, gone)
  drop_letters(root, gone, how.gapless)
  note_progress(root, how.act, 'done', #gone)
  return sent, kept
end
