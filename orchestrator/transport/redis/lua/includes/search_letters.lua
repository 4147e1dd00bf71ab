--- @include "mailbox_entry"
--- @include "dead_letters"
-- Searching letters: the ids of the letters of all kinds that fit, merged into the order in which they came.
-- Merging more kinds than this takes longer than reading the log, because each has few letters.
local MOST_KINDS = 1000
-- The log's own entries are heavy; an index' are not (see LARGE in dead_letters.lua).
local MOST_READ = 250
local MOST_OF_INDEX_AT_ONCE = 128
local MOST_OF_PARKED_AT_ONCE = 500
-- Where streams are merged: entries that are read first of all of them together, and at least one of each.
local MOST_TO_BEGIN_WITH = 500

-- One step of a search. asked: forward (oldest first), low and high (as XRANGE takes them), limit (most to find), budget
-- (most to look at), state (open, parked, all), pairs (dimension, value, …), most_kinds. With the last, the log is not looked
-- through: nil if the letters asked for are of more kinds, or of none.
-- It also stops after 1 MB of what it reads: of the log at most MOST_AT_ONCE letters more; where streams are merged, more than
-- the first entries of each.
-- Returns {cursor = where to go on or '', looked = how many were looked at, ids = {id, …}; by its place among the ids:
-- kinds = its kind, entries = its entry in the kind's stream, both nil where the log was looked through; gapless =
-- kind -> true where none was passed over}.
local function search_letters(root, asked)
  local forward, low, high, state = asked.forward, asked.low, asked.high, asked.state
  local limit, budget = asked.limit, asked.budget
  local log, parked = root .. 'dead-letters', root .. 'letters:parked'
  local parked_count = redis.call('ZCARD', parked)
  local found = {cursor = '', looked = 0, ids = {}, kinds = {}, entries = {}, gapless = {}}

  local sets, fewest = {}, nil
  for i = 1, #asked.pairs, 2 do
    local set = root .. 'letters:' .. asked.pairs[i] .. ':' .. index_name(asked.pairs[i + 1])
    sets[#sets + 1] = set
    local many = redis.call('SCARD', set)
    if many == 0 then return found end
    fewest = math.min(fewest or many, many)
  end
  -- The streams to merge, as readers of them, and how many ids they have.
  local in_log = redis.call('XLEN', log)
  local readers, there, kinds_there = {{stream = log}}, in_log, nil
  if fewest and fewest <= MOST_KINDS then
    kinds_there = redis.call('SINTER', unpack(sets))
  elseif not fewest and asked.most_kinds and redis.call('ZCARD', root .. 'letters:kinds') <= asked.most_kinds then
    kinds_there = redis.call('ZRANGE', root .. 'letters:kinds', 0, -1)
  end
  if asked.most_kinds and not (kinds_there and #kinds_there <= asked.most_kinds) then return nil end
  if kinds_there then
    readers, there = {}, 0
    for _, kind in ipairs(kinds_there) do
      local stream = root .. 'letters:kind:' .. kind
      readers[#readers + 1] = {stream = stream, kind = kind}
      there = there + redis.call('XLEN', stream)
      found.gapless[kind] = true
    end
  end
  if asked.most_kinds and not fewest and there < in_log then return nil end
  local from_parked = state == 'parked' and parked_count < there
  -- Whether a letter has to be read to know that it has the values asked for.
  local reading = #sets > 0 and (from_parked or fewest > MOST_KINDS)
  -- Of those that are parked nothing is known of what lies between them.
  if from_parked then readers, found.gapless = {{stream = parked}}, {} end
  if reading or readers[1] and readers[1].stream == log then budget = math.min(budget, MOST_READ) end

  -- Ends of the search among the padded ids of what is parked.
  local function bound(id, seq)
    if id == '-' or id == '+' then return id end
    local exclusive = id:sub(1, 1) == '('
    local bare = exclusive and id:sub(2) or id
    if not bare:find('-', 1, true) then bare = bare .. seq end
    return (exclusive and '(' or '[') .. padded(bare)
  end

  -- Some more entries of a stream, from where the last ones ended.
  local function more_of(reader, count)
    local after = reader.id and '(' .. reader.id
    local lowest, highest = forward and after or low, not forward and after or high
    if not from_parked then
      return forward and redis.call('XRANGE', reader.stream, lowest, highest, 'COUNT', count)
        or redis.call('XREVRANGE', reader.stream, highest, lowest, 'COUNT', count)
    end
    local from, to = bound(lowest, '-0'), bound(highest, '-9999999999')
    local got = forward and redis.call('ZRANGEBYLEX', parked, from, to, 'LIMIT', 0, count)
      or redis.call('ZREVRANGEBYLEX', parked, to, from, 'LIMIT', 0, count)
    for i, member in ipairs(got) do
      local ms, seq = member:match('^(%d+)%-(%d+)$')
      got[i] = {('%d-%d'):format(ms, seq)}
    end
    return got
  end

  -- Whether ids of several streams have to be compared.
  local several = #readers > 1
  local in_the_log = readers[1] and readers[1].stream == log
  local at_once = from_parked and MOST_OF_PARKED_AT_ONCE or in_the_log and MOST_AT_ONCE or MOST_OF_INDEX_AT_ONCE
  -- How much was read, and how much may be.
  local bytes, most_bytes, out_of_bytes = 0, math.huge, false

  -- How many were found, and looked at.
  local size, looked = 0, 0

  -- How many more of a stream: its share of what is still to be found; more where little of what was looked at fits.
  local function some_more()
    return math.min(math.max(math.ceil((limit - size) / #readers) + 1, looked - size), at_once, budget)
  end

  -- A reader's next id, which comes apart so that ids can be compared.
  local function step(reader)
    local at = reader.at + 1
    local entry = reader.got[at]
    if not entry and reader.more then
      if bytes >= most_bytes then
        out_of_bytes = true
        return false
      end
      local count = some_more()
      reader.got = more_of(reader, count)
      if not from_parked then
        for _, one in ipairs(reader.got) do bytes = bytes + size_of(one) end
      end
      reader.more = #reader.got == count
      at = 1
      entry = reader.got[1]
    end
    reader.at = at
    if not entry then return false end
    local id = entry[1]
    reader.id = id
    if several then
      local ms, seq = id:match('^(%d+)-(%d+)$')
      reader.ms, reader.seq = tonumber(ms), tonumber(seq)
    end
    return true
  end

  local function earlier(a, b)
    if a.ms ~= b.ms then return (a.ms < b.ms) == forward end
    return (a.seq < b.seq) == forward
  end

  local heap = {}
  local function sink(at)
    local reader, size = heap[at], #heap
    while true do
      local child = at * 2
      if child > size then break end
      if child < size and earlier(heap[child + 1], heap[child]) then child = child + 1 end
      if not earlier(heap[child], reader) then break end
      heap[at] = heap[child]
      at = child
    end
    heap[at] = reader
  end

  if several then at_once = math.max(1, math.min(at_once, math.floor(MOST_TO_BEGIN_WITH / #readers))) end
  for _, reader in ipairs(readers) do
    reader.got, reader.at, reader.more = {}, 0, true
    if step(reader) then heap[#heap + 1] = reader end
  end
  for at = math.floor(#heap / 2), 1, -1 do sink(at) end
  most_bytes = several and bytes + MOST_BYTES or MOST_BYTES

  local function fits(id, entry)
    if state ~= 'all' and not from_parked and parked_count > 0 then
      local is_parked = redis.call('ZSCORE', parked, padded(id)) and true or false
      if is_parked ~= (state == 'parked') then return false end
    end
    if not reading then return true end
    local row, read = nil, 0
    if in_the_log then row = row_of(entry) else row, read = letter_at(root, id) end
    bytes = bytes + read
    if not row or not row.k then return false end
    for _, set in ipairs(sets) do
      if redis.call('SISMEMBER', set, row.k) == 0 then return false end
    end
    return true
  end

  local free = state == 'all' or not from_parked and parked_count == 0 and state == 'open'
  local ids, kinds, entries = found.ids, found.kinds, found.entries
  while heap[1] do
    local first = heap[1]
    local id = first.id
    looked = looked + 1
    if free and not reading or fits(id, first.got[first.at]) then
      size = size + 1
      ids[size] = id
      kinds[size] = first.kind
      if first.kind then entries[size] = first.got[first.at] end
    elseif first.kind then
      found.gapless[first.kind] = nil
    end
    if not step(first) then
      if out_of_bytes then
        found.cursor = id
        break
      end
      heap[1] = heap[#heap]
      heap[#heap] = nil
    end
    if heap[1] then
      if several then sink(1) end
      if size >= limit or looked >= budget or reading and bytes >= most_bytes then
        found.cursor = id
        break
      end
    end
  end
  found.looked = looked
  return found
end
