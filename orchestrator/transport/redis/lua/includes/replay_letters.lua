--- @include "mailbox_entry"
--- @include "admission"
--- @include "letters_out"
-- Replays letters: each leaves the log and enters its mailbox in one step, so that none is replayed twice.

-- What goes to one mailbox: lists by place, because a table for each letter would cost more than to fill it.
local function batch_for(batches, queue)
  local batch = batches[queue]
  if not batch then
    batch = {queue = queue, size = 0, ids = {}, messages = {}, kinds = {}, deliveries = {}, lineages = {}, origins = {}}
    batches[queue] = batch
  end
  return batch
end

-- Reads letters, by their ids. By its place, an id's kind and its entry in the kind's stream, where they are known.
-- Returns queue -> batch, in which the letters have the order of their ids, and how many ids it came to. What names no queue
-- is in none.
local function batches_to_replay(root, ids, kinds, entries)
  local batches, batch_of_kind, bytes = {}, {}, 0
  for at, id in ipairs(ids) do
    if bytes >= MOST_BYTES then return batches, at - 1 end
    local kind, entry, row, read = kinds and kinds[at], entries and entries[at], nil, 0
    if not entry then
      row, read = letter_at(root, id)
      kind = row and row.k
      entry = kind and redis.call('XRANGE', root .. 'letters:kind:' .. kind, id, id)[1]
    end
    local batch, m, delivery, lineage, origin
    if entry then
      local flat = entry[2]
      for i = 1, #flat, 2 do
        local name, value = flat[i], flat[i + 1]
        if name == 'm' then m = value elseif name == 'i' then delivery = value
        elseif name == 'r' then lineage = value elseif name == 'o' then origin = value end
      end
      if not m and not row then row, read = letter_at(root, id) end
      m = m or (row or {}).m
      batch = batch_of_kind[kind]
      if batch == nil then
        local queue = (values_of(root, kind) or {})[QUEUE_AT] or ''
        batch = queue ~= '' and batch_for(batches, queue)
        batch_of_kind[kind] = batch
      end
    elseif row then
      m = row.m
      local queue = text((decoded(row.letter) or {}).queue)
      batch = queue ~= '' and batch_for(batches, queue)
    end
    bytes = bytes + math.max(read, #(m or ''))
    if batch and m then
      local size = batch.size + 1
      batch.size, batch.ids[size], batch.messages[size] = size, id, m
      batch.kinds[size], batch.deliveries[size] = kind or '', delivery or ''
      batch.lineages[size], batch.origins[size] = lineage, origin
    end
  end
  return batches, #ids
end

-- A replayed delivery must not have the outcome of its dead letter. Only an outcome that names this letter is deleted.
-- Most letters are older than outcomes get, so all are asked about at once.
local function forget_outcomes(root, batch, take)
  local keys, places, size = {}, {}, 0
  for at = 1, take do
    local delivery = batch.deliveries[at]
    if delivery ~= '' then
      size = size + 1
      keys[size], places[size] = root .. 'outcome:' .. delivery, at
    end
  end
  if size == 0 or redis.call('EXISTS', unpack(keys)) == 0 then return end
  for n, key in ipairs(keys) do
    local outcome, id, origin = redis.pcall('LINDEX', key, -1), batch.ids[places[n]], batch.origins[places[n]]
    -- A key of another type is no outcome's.
    if type(outcome) == 'string' and (outcome:find('"letter_id":"' .. id .. '"', 1, true)
        or origin and outcome:find('"letter_id":"' .. origin .. '"', 1, true)) then
      redis.call('DEL', key)
    end
  end
end

-- A replayed message is to run, though its sender had cancelled it.
local function forget_cancels(root, batch, take)
  if redis.call('EXISTS', root .. 'cancelling') == 0 then return end
  for at = 1, take do
    local key = root .. 'outcome:' .. delivery_in(readable(batch.messages[at]))
    redis.call('HDEL', hooks_of(key), 'cancel', 'cancelling')
    redis.call('SREM', root .. 'cancelling', key)
  end
end

-- The deliveries that the first letters of a batch are. The outcome of its last life must not be taken for the next one's.
local function begin_watching(root, batch, take)
  local deliveries = {}
  for at = 1, take do
    deliveries[at] = delivery_in(readable(batch.messages[at]))
    if deliveries[at] ~= '' then redis.call('DEL', root .. 'outcome:' .. deliveries[at]) end
  end
  return deliveries
end

-- Whether an item that was not handled is still to be sent again, because its map is retried (see runs.lua).
local function is_to_be_sent(run, step)
  local map, item = step:match('^(%d+)%.(%d+)$')
  local place = map and (redis.call('HGET', run .. ':states', map) or ''):match('^m(%d+)$')
  return place and tonumber(item) >= tonumber(place)
end

-- Why a step's letter is not replayed: the compensation of its run has begun, of which it is no part; or the step has begun again or is about to, or a letter
-- of it, or of a step above or below it, is out, so that two messages would be, and the one that ends first would be the step's outcome.
local COMPENSATED = {compensating = true, compensated = true, ['compensation failed'] = true}
local function why_not_replayed(state, run, step, is_out)
  if COMPENSATED[state] and step:sub(1, 1) ~= 'u' then return 'run ended' end
  local failed = (redis.call('HGET', run .. ':states', step) or ''):find('^[dec]')
  return (not failed or is_out or is_to_be_sent(run, step)) and 'step goes on' or nil
end

-- Takes steps of runs that are not replayed out of a batch; returns their ids by the reason, and the other steps by delivery. That a delivery is a
-- step, its id says: of one that has begun again since, nothing else may.
local function take_out_refused(root, batch)
  local refused, out, steps, is_below = {}, {}, {}, {}
  for at = 1, batch.size do
    local delivery = batch.deliveries[at]
    local uid, step = delivery:match('^([^.]+)%.(u?%d+%.?%d*)$')
    local run = uid and root .. 'run:' .. uid
    local state = run and redis.call('HGET', run, 'state')
    if state then
      local above = letters_out.above(run, step)
      local is_out = steps[delivery] or is_below[delivery] or letters_out.has(root, run, step, above)
      for _, one in ipairs(above) do is_out = is_out or steps[uid .. '.' .. one] end
      refused[at] = why_not_replayed(state, run, step, is_out)
      if not refused[at] then
        steps[delivery] = {run = run, step = step, above = above}
        for _, one in ipairs(above) do is_below[uid .. '.' .. one] = true end
      end
    end
  end
  if not next(refused) then return {}, steps end
  local kept = 0
  for at = 1, batch.size do
    local why = refused[at]
    if why then
      out[why] = out[why] or {}
      table.insert(out[why], batch.ids[at])
    else
      kept = kept + 1
      for _, part in ipairs({'ids', 'messages', 'kinds', 'deliveries', 'lineages', 'origins'}) do
        batch[part][kept] = batch[part][at]
      end
    end
  end
  batch.size = kept
  return out, steps
end

-- Notes of steps of runs that a letter of theirs is out again, until it has its outcome.
local function mark_steps(root, batch, take, steps)
  for at = 1, take do
    local delivery = batch.deliveries[at]
    local one = steps[delivery]
    if one then
      redis.call('HSET', root .. 'hooks:' .. delivery, 'run', one.run, 'step', one.step, 'replayed', '1')
      letters_out.count(one.run, one.above, 1)
    end
  end
end

-- How: root, level, audit_id, auto ('1' if automatic, else '0'), watched (somebody watches the outcomes), replacement (a message
-- instead of the letter's, or ''), gapless (see drop_letters; of a kind's letters, only the last are ever kept).
-- Returns `out`, to which it adds {{queue, why, 'id id …'}, …} of what flow control refuses, or a run that was compensated, or false: nothing
-- is dropped for want of room, these stay letters; then for each queue its name, 'id id …', and if watched 'entry entry …'
-- (in the mailbox), else '', and {delivery, …}, '' for each that is not supervised. Few
-- parts, because each part of a reply costs.
local function replay_batches(how, batches, out)
  local root, watched, replaced = how.root, how.watched, how.replacement ~= ''
  local refusals, gone, of_kind, origins = {}, {}, {}, {}
  out[#out + 1] = refusals
  local refusals_at = #out
  even_when_full(root .. 'dead-letters')
  -- The lineage of what was never sent again before, but for its id.
  local first_time = '","replays":1,"auto":' .. how.auto .. ',"audit":"' .. id_or(how.audit_id, '') .. '"'
    .. (watched and ',"watched":true}' or '}')
  for queue, batch in pairs(batches) do
    local ledger, stream = root .. 'ledger:' .. queue, root .. 'q:' .. how.level .. ':' .. queue
    local refused_steps, steps = take_out_refused(root, batch)
    for why, refused in pairs(refused_steps) do
      refusals[#refusals + 1] = {queue, {why}, table.concat(refused, ' ')}
    end
    local admission = admit(flow_of(ledger), batch.size, true)
    local take = admission and admission.take or batch.size
    local ids, entries, count = {}, {}, #gone
    for at = 1, take do
      local id, lineage, kind = batch.ids[at], batch.lineages[at], batch.kinds[at]
      if lineage then
        lineage = lineage_after(id, lineage, how.audit_id, tonumber(how.auto))
        if watched then lineage = lineage:sub(1, -2) .. ',"watched":true}' end
      else
        lineage = '{"of":"' .. id .. '","first":"' .. id .. first_time
      end
      entries[at] = put(stream, replaced and how.replacement or batch.messages[at], nil, nil, lineage)
      ids[at], gone[count + at] = id, id
      if batch.origins[at] then origins[#origins + 1] = batch.origins[at] end
      local same_kind = of_kind[kind]
      if same_kind then same_kind[#same_kind + 1] = id elseif kind ~= '' then of_kind[kind] = {id} end
    end
    forget_outcomes(root, batch, take)
    forget_cancels(root, batch, take)
    mark_steps(root, batch, take, steps)
    if take > 0 then
      out[#out + 1], out[#out + 2] = queue, table.concat(ids, ' ')
      if watched then
        out[#out + 1], out[#out + 2] = table.concat(entries, ' '), begin_watching(root, batch, take)
      else
        out[#out + 1], out[#out + 2] = '', {unpack(batch.deliveries, 1, take)}
      end
      count_accepted(ledger, take)
      redis.call('SADD', root .. 'queues', queue)
    end
    if take < batch.size then refusals[#refusals + 1] = {queue, admission.refusal, table.concat(batch.ids, ' ', take + 1, batch.size)} end
    if admission then after_admission(admission) end
  end
  drop_letters(root, gone, of_kind, origins, how.gapless)
  note_progress(root, how.audit_id, 'done', #gone)
  if not refusals[1] then out[refusals_at] = false end
  return out
end
