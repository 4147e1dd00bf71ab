--- @include "lanes"
-- Messages that are claimed enter their lanes, unless they may run.
-- In how many characters of a body a key is looked for, one after the other: what is behind the last has no key.
local PREFIXES, LONGEST_KEY = {1024, 8192}, 200
-- Messages of a lane that are not there any more and are dropped from it at once.
local MOST_DROPPED = 200
-- Characters that were looked through.
local looked_through = 0

local alphabet, sixes = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/', {}
for at = 1, 64 do sixes[alphabet:byte(at)] = at - 1 end

local function decoded(base64)
  local parts = {}
  for at = 1, #base64 - 3, 4 do
    local a, b, c, d = base64:byte(at, at + 3)
    local bits = (sixes[a] or 0) * 262144 + (sixes[b] or 0) * 4096 + (sixes[c] or 0) * 64 + (sixes[d] or 0)
    local three = string.char(math.floor(bits / 65536), math.floor(bits / 256) % 256, bits % 256)
    if d == 61 then three = three:sub(1, c == 61 and 1 or 2) end
    parts[#parts + 1] = three
  end
  return table.concat(parts)
end

-- Where a JSON string ends that begins at `at`; nil if the text ends before.
local function string_end(json, at)
  at = at + 1
  while true do
    local found = json:find('["\\]', at)
    if not found then return nil end
    if json:byte(found) == 34 then return found end
    at = found + 2
  end
end

-- Where any JSON value ends that begins at `at`.
local function value_end(json, at)
  local first = json:sub(at, at)
  if first == '"' then return string_end(json, at) end
  if first ~= '{' and first ~= '[' then
    local following = json:find('[%s,%]}]', at)
    return following and following - 1
  end
  local depth = 0
  while true do
    local found = json:find('["%[%]{}]', at)
    if not found then return nil end
    local what = json:sub(found, found)
    if what == '"' then
      found = string_end(json, found)
      if not found then return nil end
    elseif what == '{' or what == '[' then
      depth = depth + 1
    else
      depth = depth - 1
      if depth == 0 then return found end
    end
    at = found + 1
  end
end

-- A JSON value as it is compared: a string as it is between its quotes, because some writers escape letters that others do not.
local function comparable(json)
  if json:byte() ~= 34 or not json:find('\\', 1, true) then return json end
  local values = read_json('[' .. json .. ']')
  return values and '"' .. values[1] .. '"' or json
end

-- The value of a field of the object that is the first argument, as JSON text; nil if it is not among what is there of it.
local function argument_field(json, field)
  field = '"' .. field .. '"'
  local at = json:match('^%s*%[%s*%[%s*{()')
  while at do
    local from = json:match('^[%s,]*()"', at)
    local to = from and string_end(json, from)
    local value = to and json:match('^%s*:%s*()', to + 1)
    local last = value and value_end(json, value)
    if not last then return nil end
    if comparable(json:sub(from, to)) == field then return comparable(json:sub(value, last)) end
    at = last + 1
  end
end

-- The key of a message: the text of its field.
local function key_of(m, field)
  if field == '' then return '' end
  local message = message_of(m)
  local body = message and message.body
  if type(body) ~= 'string' then return '' end
  local properties, key = message.properties, nil
  local is_base64 = type(properties) == 'table' and properties.body_encoding == 'base64'
  for at, length in ipairs(PREFIXES) do
    if not key and (at == 1 or #body > PREFIXES[at - 1]) then
      local prefix = body:sub(1, length)
      looked_through = looked_through + #prefix
      key = argument_field(is_base64 and decoded(prefix) or prefix, field)
    end
  end
  if key and #key > LONGEST_KEY then return redis.sha1hex(key) end
  return key or ''
end

-- Whether nobody waits in a lane; those that were cancelled meanwhile do not.
local function is_empty(lanes, lane)
  for _ = 1, MOST_DROPPED do
    local id = redis.call('LINDEX', lane, 0)
    if not id then return true end
    if redis.call('XRANGE', lanes.stream, id, id)[1] then return false end
    redis.call('LPOP', lane)
  end
  return false
end

-- Of entries that were claimed, those that may run; the others enter their lanes. Returns also how many bytes those have.
local function through_lanes(lanes, stream, group, entries)
  local passed, bytes = {}, 0
  for _, entry in ipairs(entries) do
    if redis.call('HEXISTS', lanes.permits, permit_of(lanes, stream, entry[1])) == 1 then
      passed[#passed + 1] = entry
    else
      local m, d, u, r, s, n = fields(entry)
      local key = key_of(m or '', lanes.field)
      local lane = lane_of(lanes, key)
      -- Messages that wait go first, each let go when another ends.
      if tonumber(redis.call('HGET', lanes.used, key) or 0) < lanes.limit and is_empty(lanes, lane) then
        add_permit(lanes, stream, entry[1], key)
        passed[#passed + 1] = entry
      else
        local level = stream:sub(#lanes.root + 3, -#lanes.queue - 2)
        local waiting = {'m', m or '', 'l', level, 'k', key}
        for name, value in pairs({d = d, u = u, r = r, s = s, n = n}) do
          waiting[#waiting + 1], waiting[#waiting + 2] = name, value
        end
        redis.call('RPUSH', lane, redis.call('XADD', lanes.stream, '*', unpack(waiting)))
        redis.call('XACK', stream, group, entry[1])
        redis.call('XDEL', stream, entry[1])
        bytes = bytes + #(m or '')
      end
    end
  end
  return passed, bytes
end
