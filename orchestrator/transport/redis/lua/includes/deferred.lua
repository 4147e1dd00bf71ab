--- @include "mailbox_entry"
-- Deferred messages wait behind an open breaker, because their sender has asked for that (`when_open`). They are in a stream
-- of their mailbox that nobody claims from, in their order; the field `l` of each is the level that it goes to. While there are
-- some, the flow hash has the field `deferred`, and a timer has each sweep try to let them go.

local function deferred_stream(root, queue)
  return root .. 'q:deferred:' .. queue
end

local function asks_to_be_deferred(m)
  if not m:find('when_open', 1, true) then return false end
  local message = message_of(m)
  local orc = message and type(message.headers) == 'table' and message.headers.orc
  return type(orc) == 'table' and orc.when_open == 'queue'
end

-- Returns the id of its entry.
local function defer(flow, root, queue, stream, m)
  local level = stream:sub(#root + 3, -#queue - 2)
  redis.call('HSET', flow, 'deferred', 1)
  redis.call('ZADD', root .. 'timers', 'NX', now_ms(), 'deferred:' .. queue)
  return redis.call('XADD', deferred_stream(root, queue), '*', 'm', m, 'l', level)
end

-- Moves the first deferred messages, at most `most` and 1 MB and one message, to where they would have been put. Returns how many.
local function let_go(flow, root, queue, most)
  local from = deferred_stream(root, queue)
  local moved, bytes, some = 0, 0, 1
  while moved < most and bytes < MOST_BYTES do
    some = math.min(some, most - moved)
    local before = bytes
    local entries = redis.call('XRANGE', from, '-', '+', 'COUNT', some)
    for _, entry in ipairs(entries) do
      local m, _, _, _, since = fields(entry)
      local level
      for i = 1, #entry[2], 2 do
        if entry[2][i] == 'l' then level = entry[2][i + 1] end
      end
      put(root .. 'q:' .. level .. ':' .. queue, m, nil, nil, nil, since)
      redis.call('XDEL', from, entry[1])
      moved, bytes = moved + 1, bytes + size_of(entry)
    end
    if #entries < some then break end
    some = next_count(some, bytes - before)
  end
  if redis.call('XLEN', from) == 0 then
    redis.call('DEL', from)
    redis.call('HDEL', flow, 'deferred')
    redis.call('ZREM', root .. 'timers', 'deferred:' .. queue)
  end
  return moved
end
