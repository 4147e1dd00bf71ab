-- One step of a search: the ids of the letters of all kinds that fit, merged into the order in which they came.
-- ARGV: root, '1' for oldest first, lowest id, highest id (both as XRANGE takes them), most to find, most to look at,
-- state (open, parked, all), dimension, value, …
-- Returns {where to go on or '', how many were looked at, id, …}
local root, forward = ARGV[1], ARGV[2] == '1'
local limit, budget, state = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local low, high = ARGV[3], ARGV[4]
local log, parked = root .. 'dead-letters', root .. 'letters:parked'
local aside = redis.call('ZCARD', parked)
-- Of more kinds than this, merging takes longer than reading the log. Letters of so many kinds are few of each.
local MOST_KINDS = 1000
-- The log's own entries are heavy; an index' are not.
local MOST_READ = 500

local sets, fewest = {}, nil
for i = 8, #ARGV, 2 do
  local set = root .. 'letters:' .. ARGV[i] .. ':' .. index_name(ARGV[i + 1])
  sets[#sets + 1] = set
  local many = redis.call('SCARD', set)
  if many == 0 then return {'', 0} end
  fewest = math.min(fewest or many, many)
end
-- The streams to merge, and how many ids they have.
local streams, there = {log}, redis.call('XLEN', log)
if fewest and fewest <= MOST_KINDS then
  streams, there = {}, 0
  for _, kind in ipairs(redis.call('SINTER', unpack(sets))) do
    local stream = root .. 'letters:kind:' .. kind
    streams[#streams + 1] = stream
    there = there + redis.call('XLEN', stream)
  end
end
local from_parked = state == 'parked' and aside < there
-- Whether a letter has to be read to know that it has the values asked for.
local reading = #sets > 0 and (from_parked or fewest > MOST_KINDS)
if reading or streams[1] == log then budget = math.min(budget, MOST_READ) end

-- Ends of the search among the padded ids of what is parked.
local function bound(id, seq)
  if id == '-' or id == '+' then return id end
  local exclusive = id:sub(1, 1) == '('
  local bare = exclusive and id:sub(2) or id
  if not bare:find('-', 1, true) then bare = bare .. seq end
  return (exclusive and '(' or '[') .. padded(bare)
end

-- Some more ids of a stream, from where the last ones ended.
local function more_of(stream, after, count)
  local ids = {}
  local lowest, highest = forward and after or low, not forward and after or high
  if from_parked then
    local from, to = bound(lowest, '-0'), bound(highest, '-9999999999')
    local got = forward and redis.call('ZRANGEBYLEX', parked, from, to, 'LIMIT', 0, count)
      or redis.call('ZREVRANGEBYLEX', parked, to, from, 'LIMIT', 0, count)
    for i, member in ipairs(got) do
      local ms, seq = member:match('^(%d+)%-(%d+)$')
      ids[i] = ('%d-%d'):format(ms, seq)
    end
  else
    local got = forward and redis.call('XRANGE', stream, lowest, highest, 'COUNT', count)
      or redis.call('XREVRANGE', stream, highest, lowest, 'COUNT', count)
    for i, entry in ipairs(got) do ids[i] = entry[1] end
  end
  return ids
end

-- A stream as it is read: its next id, which comes apart so that ids can be compared.
local function step(reader)
  reader.at = reader.at + 1
  local id = reader.ids[reader.at]
  if not id and reader.more then
    reader.ids = more_of(reader.stream, reader.id and '(' .. reader.id, reader.count)
    reader.more = #reader.ids == reader.count
    reader.count = math.min(reader.count * 4, 500)
    reader.at = 1
    id = reader.ids[1]
  end
  reader.id = id
  if not id then return false end
  local ms, seq = id:match('^(%d+)-(%d+)$')
  reader.ms, reader.seq = tonumber(ms), tonumber(seq)
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

if from_parked then streams = {parked} end
local count = math.min(math.ceil(limit / #streams) + 1, budget)
for _, stream in ipairs(streams) do
  local reader = {stream = stream, ids = {}, at = 0, more = true, count = count}
  if step(reader) then heap[#heap + 1] = reader end
end
for at = math.floor(#heap / 2), 1, -1 do sink(at) end

local function fits(id)
  if state ~= 'all' and not from_parked and aside > 0 then
    local is_parked = redis.call('ZSCORE', parked, padded(id)) and true or false
    if is_parked ~= (state == 'parked') then return false end
  end
  if not reading then return true end
  local row = letter_at(root, id)
  if not row then return false end
  for i = 8, #ARGV, 2 do
    for _, dimension in ipairs(INDEXED) do
      if dimension[2] == ARGV[i] and (row[dimension[1]] or '') ~= ARGV[i + 1] then return false end
    end
  end
  return true
end

local out, looked = {'', 0}, 0
while heap[1] do
  local first = heap[1]
  local id = first.id
  looked = looked + 1
  if fits(id) then out[#out + 1] = id end
  if not step(first) then
    heap[1] = heap[#heap]
    heap[#heap] = nil
  end
  if heap[1] then
    sink(1)
    if #out - 2 >= limit or looked >= budget then
      out[1] = id
      break
    end
  end
end
out[2] = looked
return out
