-- One step of a search: candidates come from the shortest index, the others are asked about each.
-- ARGV: root, '1' for oldest first, lowest id, highest id (both as XRANGE takes them), most to find, most to look at,
-- state (open, parked, all), dimension, value, …
-- Returns {where to go on or '', how many were looked at, id, …}
local root, forward = ARGV[1], ARGV[2] == '1'
local limit, budget, state = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local parked = root .. 'letters:parked'
local aside = redis.call('ZCARD', parked)
local streams, driver, shortest = {}, root .. 'dead-letters', redis.call('XLEN', root .. 'dead-letters')
for i = 8, #ARGV, 2 do
  local key = root .. 'letters:' .. ARGV[i] .. ':' .. index_name(ARGV[i + 1])
  local length = redis.call('XLEN', key)
  if length == 0 then return {'', 0} end
  streams[#streams + 1] = key
  if #streams == 1 or length < shortest then driver, shortest = key, length end
end
local from_parked = state == 'parked' and aside < shortest
-- The log's own entries are heavy; an index' are not.
if driver == root .. 'dead-letters' then budget = math.min(budget, 500) end

-- Ends of the search among the padded ids of what is parked.
local function bound(id, seq)
  if id == '-' or id == '+' then return id end
  local exclusive = id:sub(1, 1) == '('
  local bare = exclusive and id:sub(2) or id
  if not bare:find('-', 1, true) then bare = bare .. seq end
  return (exclusive and '(' or '[') .. padded(bare)
end

local low, high = ARGV[3], ARGV[4]
local function candidates(count)
  local ids = {}
  if from_parked then
    local from, to = bound(low, '-0'), bound(high, '-9999999999')
    local got = forward and redis.call('ZRANGEBYLEX', parked, from, to, 'LIMIT', 0, count)
      or redis.call('ZREVRANGEBYLEX', parked, to, from, 'LIMIT', 0, count)
    for _, member in ipairs(got) do
      local ms, seq = member:match('^(%d+)%-(%d+)$')
      ids[#ids + 1] = ('%d-%d'):format(ms, seq)
    end
  else
    local got = forward and redis.call('XRANGE', driver, low, high, 'COUNT', count)
      or redis.call('XREVRANGE', driver, high, low, 'COUNT', count)
    for _, entry in ipairs(got) do ids[#ids + 1] = entry[1] end
  end
  return ids
end

local function fits(id)
  if state == 'open' and aside > 0 and redis.call('ZSCORE', parked, padded(id)) then return false end
  if state == 'parked' and not from_parked and not redis.call('ZSCORE', parked, padded(id)) then return false end
  for _, key in ipairs(streams) do
    if (from_parked or key ~= driver) and #redis.call('XRANGE', key, id, id) == 0 then return false end
  end
  return true
end

local out, looked, last = {'', 0}, 0, nil
local chunk = math.min(limit, budget)
while true do
  local ids = candidates(chunk)
  for _, id in ipairs(ids) do
    looked, last = looked + 1, id
    if fits(id) then out[#out + 1] = id end
    if #out - 2 >= limit then break end
  end
  if #ids < chunk and last == ids[#ids] then break end
  if #out - 2 >= limit or looked >= budget then
    out[1] = last
    break
  end
  if forward then low = '(' .. last else high = '(' .. last end
  chunk = math.min(chunk * 4, budget - looked)
end
out[2] = looked
return out
