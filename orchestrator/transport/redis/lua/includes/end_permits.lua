--- @include "lanes"
--- @include "cancel_mark"
-- The end of permits: the next messages of their lanes are let go.
-- Messages of one key that one script lets go, and of all keys; those of one key that are not there any more; and how long the outcome
-- of one that was cancelled meanwhile is kept.
local MOST_NEXT, MOST_NEXT_OF_ALL, MOST_GONE, CANCELLED_TTL_MS = 20, 200, 200, 3600000
-- Messages that were let go, and their bytes. After so many, or 1 MB, the sweep goes on (check_lanes.lua).
local all_gone, bytes_gone = 0, 0

-- Whether a message was cancelled while it was in a lane. Few are, and only for them is every message read.
local function is_cancelled_in_lane(lanes, m, d)
  if redis.call('EXISTS', lanes.root .. 'cancelling') == 0 then return false end
  local headers = (message_of(m) or {}).headers
  return type(headers) == 'table' and type(headers.id) == 'string'
    and cancelled_meanwhile(lanes.root .. 'outcome:' .. headers.id, lanes.root .. 'ledger:' .. lanes.queue, m, d, CANCELLED_TTL_MS)
end

-- Lets the first message of a lane go; false if there is none. It is put before new messages, so that its permit is used soon.
local function let_next_go(lanes, key)
  local lane = lane_of(lanes, key)
  if redis.call('XLEN', lanes.stream) == 0 then
    redis.call('DEL', lane)
    return false
  end
  for _ = 1, MOST_GONE do
    local id = redis.call('LINDEX', lane, 0)
    if not id then return false end
    -- One that was cancelled or dropped is not there any more.
    local entry = redis.call('XRANGE', lanes.stream, id, id)[1]
    if entry then
      local m, d, u, r, s, n = fields(entry)
      local level
      for i = 1, #entry[2], 2 do
        if entry[2][i] == 'l' then level = entry[2][i + 1] end
      end
      bytes_gone = bytes_gone + size_of(entry)
      if not is_cancelled_in_lane(lanes, m, d) then
        if level:sub(1, 9) ~= 'returned-' then level, n = 'returned-' .. level, '1' end
        local stream = lanes.root .. 'q:' .. level .. ':' .. lanes.queue
        -- Raises if that is a key of another type, as long as the message is in its lane.
        local at = put(stream, m, d, u, r, s, n)
        redis.call('LPOP', lane)
        redis.call('XDEL', lanes.stream, id)
        add_permit(lanes, stream, at, key)
        return true
      end
      redis.call('XDEL', lanes.stream, id)
    end
    redis.call('LPOP', lane)
  end
  return false
end

-- Lets messages of a key go as long as there are permits.
local function use_permits(lanes, key)
  local gone = 0
  while gone < MOST_NEXT and all_gone < MOST_NEXT_OF_ALL and bytes_gone < MOST_BYTES do
    if tonumber(redis.call('HGET', lanes.used, key) or 0) >= lanes.limit or not let_next_go(lanes, key) then break end
    gone, all_gone = gone + 1, all_gone + 1
  end
  return gone
end

-- Nothing is kept of a key without permits, unless somebody waits for one.
local function forget_unused(lanes, key)
  if tonumber(redis.call('HGET', lanes.used, key) or 0) <= 0 and redis.call('EXISTS', lane_of(lanes, key)) == 0 then
    redis.call('HDEL', lanes.used, key)
  end
end

local function end_permit(lanes, permit)
  local key = redis.call('HGET', lanes.permits, permit)
  if not key then return false end
  redis.call('HDEL', lanes.permits, permit)
  redis.call('HINCRBY', lanes.used, key, -1)
  use_permits(lanes, key)
  forget_unused(lanes, key)
  return true
end

-- Attempts of these entries of a mailbox have ended. The key of its ledger says which mailbox.
local function end_attempts(ledger, stream, ids)
  local root, queue = ledger:match('^(.-orc:)ledger:(.*)$')
  if not root or redis.call('EXISTS', root .. 'permits:' .. queue) == 0 then return end
  local lanes = lanes_of(root, queue)
  for _, id in ipairs(ids) do end_permit(lanes, permit_of(lanes, stream, id)) end
end
