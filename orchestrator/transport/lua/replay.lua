-- Sends dead letters again: each is out of the log and in its mailbox in one step, so whoever comes second finds nothing.
-- ARGV: root, step, act, 1 if automatic else 0, '1' if somebody watches the outcomes, a message instead of the letter's
-- or '', ids…
-- Returns {{id, queue, entry in the mailbox, delivery id where outcomes are watched, …}, {{queue, why, {id, …}}, …},
-- {id, …}}; what flow control refuses stays a letter, as the second list says: nothing is dropped for want of room. The
-- third has the ids it did not come to, because what it moves at a time is bounded.
local MOST_BYTES = 1048576
local root = ARGV[1]
local wanted, rows, sent, kept, later, bytes = {}, {}, {}, {}, {}, 0
even_when_full(root .. 'dead-letters')
for i = 7, #ARGV do
  local row = bytes < MOST_BYTES and letter_at(root, ARGV[i])
  if bytes >= MOST_BYTES then later[#later + 1] = ARGV[i] end
  if row then
    bytes = bytes + #(row.m or '')
    if not row.q then row.q = text((decoded(row.letter) or {}).queue) end
    -- The largest part of it, which nobody needs from here on.
    row.letter = nil
    if row.q ~= '' then
      local of_queue = wanted[row.q]
      if of_queue then of_queue[#of_queue + 1] = row else wanted[row.q] = {row} end
    end
  end
end

-- Who asks for the delivery must not find how its last life ended. Its outcome names the letter, which saves decoding the
-- message: whatever in it looks like its id is tried, and only an outcome that tells of this very letter goes.
local function forget_outcome_of(row, id)
  local key = root .. 'outcome:' .. id
  local outcome = redis.pcall('LINDEX', key, -1)
  -- A key of another type is no outcome's.
  if type(outcome) ~= 'string' then return false end
  local named = outcome:find('"letter_id":"' .. row.id .. '"', 1, true)
    or row.o and outcome:find('"letter_id":"' .. row.o .. '"', 1, true)
  return named and redis.call('DEL', key) == 1
end

local function forget_outcome(row)
  local m, at, escaped = row.m or '', 1, false
  while true do
    local _, last = m:find('"id"', at, true)
    if not last then break end
    at = last + 1
    local id = m:match('^%s*:%s*"([^"]*)"', at)
    if id and id:find('\\', 1, true) then
      escaped = true
    elseif id and forget_outcome_of(row, id) then
      return
    end
  end
  local headers = escaped and (decoded(m) or {}).headers
  if type(headers) == 'table' then forget_outcome_of(row, text(headers.id)) end
end

local function send(row)
  local delivery = ''
  if ARGV[5] == '1' then
    local message = decoded(row.m)
    local headers = message and type(message.headers) == 'table' and message.headers or {}
    -- Only what is supervised leaves an outcome. The one of its last life must not be taken for the next one's.
    if type(headers.orc) == 'table' then delivery = text(headers.id) end
    if delivery ~= '' then redis.call('DEL', root .. 'outcome:' .. delivery) end
  else
    forget_outcome(row)
  end
  local m = ARGV[6] ~= '' and ARGV[6] or row.m or ''
  local lineage = lineage_after(row, ARGV[3], tonumber(ARGV[4]))
  if ARGV[5] == '1' then lineage = lineage:sub(1, -2) .. ',"watched":true}' end
  local entry = put(root .. 'q:' .. ARGV[2] .. ':' .. row.q, wrapped(m, lineage))
  rows[#rows + 1] = row
  local at = #sent
  sent[at + 1], sent[at + 2], sent[at + 3], sent[at + 4] = row.id, row.q, entry, delivery
end

for queue, of_queue in pairs(wanted) do
  local ledger = root .. 'ledger:' .. queue
  local door = open_door(flow_of(ledger), #of_queue, true)
  local take = door and door.take or #of_queue
  for at = 1, take do send(of_queue[at]) end
  if take > 0 then
    redis.call('HINCRBY', ledger, 'accepted', take)
    redis.call('SADD', root .. 'queues', queue)
  end
  if take < #of_queue then
    local refused = {}
    for at = take + 1, #of_queue do refused[#refused + 1] = of_queue[at].id end
    kept[#kept + 1] = {queue, door.refusal, refused}
  end
  if door then close_door(door) end
end
drop_letters(root, rows)
note_progress(root, ARGV[3], 'done', #rows)
return answer({sent, kept, later})
