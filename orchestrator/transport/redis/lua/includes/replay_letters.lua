--- @include "admission"
-- Sends letters again: each is out of the log and in its mailbox in one step, so whoever comes second finds nothing.

-- What goes to one mailbox: lists by place, because a table for each letter would cost more than to fill it.
local function lot_for(lots, queue)
  local lot = lots[queue]
  if not lot then
    lot = {queue = queue, size = 0, ids = {}, messages = {}, kinds = {}, deliveries = {}, lineages = {}, origins = {}}
    lots[queue] = lot
  end
  return lot
end

-- Reads letters, by their ids. By its place, an id's kind and its entry in the kind's stream, where they are known.
-- Returns queue -> lot, in which the letters have the order of their ids, and how many ids it came to. What names no queue
-- is in none.
local function lots_to_send(root, ids, kinds, entries)
  local lots, lot_of_kind, bytes = {}, {}, 0
  for at, id in ipairs(ids) do
    if bytes >= MOST_BYTES then return lots, at - 1 end
    local kind, entry, row, read = kinds and kinds[at], entries and entries[at], nil, 0
    if not entry then
      row, read = letter_at(root, id)
      kind = row and row.k
      entry = kind and redis.call('XRANGE', root .. 'letters:kind:' .. kind, id, id)[1]
    end
    local lot, m, delivery, lineage, origin
    if entry then
      local flat = entry[2]
      for i = 1, #flat, 2 do
        local name, value = flat[i], flat[i + 1]
        if name == 'm' then m = value elseif name == 'i' then delivery = value
        elseif name == 'r' then lineage = value elseif name == 'o' then origin = value end
      end
      if not m and not row then row, read = letter_at(root, id) end
      m = m or (row or {}).m
      lot = lot_of_kind[kind]
      if lot == nil then
        local queue = (values_of(root, kind) or {})[QUEUE_AT] or ''
        lot = queue ~= '' and lot_for(lots, queue)
        lot_of_kind[kind] = lot
      end
    elseif row then
      m = row.m
      local queue = text((decoded(row.letter) or {}).queue)
      lot = queue ~= '' and lot_for(lots, queue)
    end
    bytes = bytes + math.max(read, #(m or ''))
    if lot and m then
      local size = lot.size + 1
      lot.size, lot.ids[size], lot.messages[size] = size, id, m
      lot.kinds[size], lot.deliveries[size] = kind or '', delivery or ''
      lot.lineages[size], lot.origins[size] = lineage, origin
    end
  end
  return lots, #ids
end

-- Who asks for a delivery must not find how its last life ended. Only an outcome that tells of this very letter goes.
-- Most letters are older than outcomes get, so all are asked about at once.
local function forget_outcomes(root, lot, take)
  local keys, places, size = {}, {}, 0
  for at = 1, take do
    local delivery = lot.deliveries[at]
    if delivery ~= '' then
      size = size + 1
      keys[size], places[size] = root .. 'outcome:' .. delivery, at
    end
  end
  if size == 0 or redis.call('EXISTS', unpack(keys)) == 0 then return end
  for n, key in ipairs(keys) do
    local outcome, id, origin = redis.pcall('LINDEX', key, -1), lot.ids[places[n]], lot.origins[places[n]]
    -- A key of another type is no outcome's.
    if type(outcome) == 'string' and (outcome:find('"letter_id":"' .. id .. '"', 1, true)
        or origin and outcome:find('"letter_id":"' .. origin .. '"', 1, true)) then
      redis.call('DEL', key)
    end
  end
end

-- Who sends a letter again wants it done, though its sender had given it up.
local function forget_cancels(root, lot, take)
  if redis.call('EXISTS', root .. 'cancelling') == 0 then return end
  for at = 1, take do
    local key = root .. 'outcome:' .. delivery_in(readable(lot.messages[at]))
    redis.call('HDEL', hooks_of(key), 'cancel', 'cancelling')
    redis.call('SREM', root .. 'cancelling', key)
  end
end

-- The deliveries that the first letters of a lot are. The outcome of its last life must not be taken for the next one's.
local function begin_watching(root, lot, take)
  local deliveries = {}
  for at = 1, take do
    deliveries[at] = delivery_in(readable(lot.messages[at]))
    if deliveries[at] ~= '' then redis.call('DEL', root .. 'outcome:' .. deliveries[at]) end
  end
  return deliveries
end

-- How: root, step, audit_id, auto ('1' if automatic, else '0'), watched (somebody watches the outcomes), instead (a message
-- instead of the letter's, or ''), gapless (see drop_letters; of a kind's letters, only the last are ever kept).
-- Returns `out`, to which it adds {{queue, why, 'id id …'}, …} of what flow control refuses, or false: nothing
-- is dropped for want of room, these stay letters; then for each queue its name, 'id id …', and if watched 'entry entry …'
-- (in the mailbox), else '', and {delivery, …}, '' for each that is supervised by nobody. An answer of many parts is written in as many pieces.
local function replay_lots(how, lots, out)
  local root, watched, instead = how.root, how.watched, how.instead ~= ''
  local kept, gone, of_kind, origins = {}, {}, {}, {}
  out[#out + 1] = kept
  local kept_at = #out
  even_when_full(root .. 'dead-letters')
  -- The lineage of what was never sent again before, but for its id.
  local first_time = '","replays":1,"auto":' .. how.auto .. ',"audit":"' .. id_or(how.audit_id, '') .. '"'
    .. (watched and ',"watched":true}' or '}')
  for queue, lot in pairs(lots) do
    local ledger, stream = root .. 'ledger:' .. queue, root .. 'q:' .. how.step .. ':' .. queue
    local door = open_door(flow_of(ledger), lot.size, true)
    local take = door and door.take or lot.size
    local ids, entries, count = {}, {}, #gone
    for at = 1, take do
      local id, lineage, kind = lot.ids[at], lot.lineages[at], lot.kinds[at]
      if lineage then
        lineage = lineage_after(id, lineage, how.audit_id, tonumber(how.auto))
        if watched then lineage = lineage:sub(1, -2) .. ',"watched":true}' end
      else
        lineage = '{"of":"' .. id .. '","first":"' .. id .. first_time
      end
      entries[at] = redis.call('XADD', stream, '*', 'm', instead and how.instead or lot.messages[at], 'r', lineage)
      ids[at], gone[count + at] = id, id
      if lot.origins[at] then origins[#origins + 1] = lot.origins[at] end
      local same_kind = of_kind[kind]
      if same_kind then same_kind[#same_kind + 1] = id elseif kind ~= '' then of_kind[kind] = {id} end
    end
    forget_outcomes(root, lot, take)
    forget_cancels(root, lot, take)
    if take > 0 then
      out[#out + 1], out[#out + 2] = queue, table.concat(ids, ' ')
      if watched then
        out[#out + 1], out[#out + 2] = table.concat(entries, ' '), begin_watching(root, lot, take)
      else
        out[#out + 1], out[#out + 2] = '', {unpack(lot.deliveries, 1, take)}
      end
      redis.call('HINCRBY', ledger, 'accepted', take)
      redis.call('SADD', root .. 'queues', queue)
    end
    if take < lot.size then kept[#kept + 1] = {queue, door.refusal, table.concat(lot.ids, ' ', take + 1, lot.size)} end
    if door then close_door(door) end
  end
  drop_letters(root, gone, of_kind, origins, how.gapless)
  note_progress(root, how.audit_id, 'done', #gone)
  if not kept[1] then out[kept_at] = false end
  return out
end
