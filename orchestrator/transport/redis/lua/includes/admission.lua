--- @include "endings"
--- @include "breaker"
--- @include "dead_letters"
-- The door of a mailbox: its bound and its circuit breaker, as its flow hash has them. A mailbox without that hash
-- takes everything. What was accepted once passes no door again: retries, returned messages, messages that fall due.

-- How many messages wait: not claimed by anybody, or not yet due.
local function depth_of(door)
  local depth = redis.call('ZCARD', door.root .. 'delayed:' .. door.queue)
  for _, stream in ipairs(door.streams) do
    local length = redis.call('XLEN', stream)
    if length > 0 then
      local pending = redis.pcall('XPENDING', stream, door.group)
      depth = depth + length - (pending.err and 0 or pending[1])
    end
  end
  return depth
end

-- Asks for the admission of `wanted` messages. nil: nothing is declared, all may go. Else a table with
-- take: the first so many may go, drop: the next so many are to be dropped, refusal: why the others may not go.
-- With `strict`, whoever would be dropped is refused instead; with `peek`, only looks.
local function open_door(flow, wanted, strict, peek)
  if redis.call('EXISTS', flow) == 0 then return nil end
  local f = redis.call('HMGET', flow, 'root', 'queue', 'steps', 'group', 'limit', 'overflow', 'block_ms', 'warn_from',
    'outcome_ttl_ms')
  if not f[1] then return nil end
  local door = {flow = flow, root = f[1], queue = f[2], group = f[4], take = wanted, drop = 0, before = 0,
    limit = tonumber(f[5] or 0), overflow = f[6], warn_from = tonumber(f[8] or 0), ttl_ms = f[9], streams = {}}
  for step in f[3]:gmatch('%S+') do
    door.streams[#door.streams + 1] = door.root .. 'q:' .. step .. ':' .. door.queue
  end
  if door.limit > 0 then
    door.before = depth_of(door)
    local room = math.max(0, door.limit - door.before)
    if wanted > room and door.overflow ~= 'drop_oldest' then
      door.take = room
      if door.overflow == 'drop_newest' and not strict then
        door.drop = wanted - room
      else
        local block_ms = door.overflow == 'block' and f[7] or '0'
        door.refusal = {'full', tostring(door.before), tostring(door.limit), block_ms}
      end
    end
  end
  if door.take + door.drop > 0 then
    local go, wait_ms = breaker_asked(flow, door.take + door.drop, peek)
    if go < door.take + door.drop then
      door.drop = math.max(0, math.min(door.drop, go - door.take))
      door.take = math.min(door.take, go)
      door.refusal = {'open', tostring(wait_ms)}
    end
    -- Whether a look has done all that asking does.
    door.is_asked = not peek or not wait_ms
  end
  return door
end

-- A message ends as a dead letter because its mailbox is full. It has been accepted.
local function overflowed(door, m, d, r, s)
  local text = 'the mailbox holds ' .. door.limit .. ' messages; ' .. door.overflow
  local letter = cjson.encode({queue = door.queue, reason = 'mailbox overflow', attempts = 0, at = now_ms(),
    error = {type = 'MailboxFull', message = text}})
  local dead = bury_letter(door.root, door.queue, m, d, r, letter, 'mailbox overflow', 'MailboxFull', '', s or '')
  redis.call('HINCRBY', door.root .. 'ledger:' .. door.queue, 'dead', 1)
  tell(door.root, m, {outcome = 'dead', reason = 'mailbox overflow', attempts = 0, letter_id = dead, error = text},
    door.ttl_ms, d)
  end_for_celery(door.root .. 'ledger:' .. door.queue, m, 'FAILURE', 'MessageDropped', text)
  local message = message_of(m)
  local headers = message and type(message.headers) == 'table' and message.headers or {}
  local orc = type(headers.orc) == 'table' and headers.orc or {}
  note('overflow', door.queue, tostring(door.limit), door.overflow, dead, tostring(headers.id or ''),
    tostring(orc.agent or ''), tostring(orc.message or headers.task or ''), text)
end

-- More than a script accepts, it drops at most so many: of a mailbox that holds far more than it may, each drops some.
local MOST_MORE_DROPPED = 20

-- Drops what has waited longest until no more than the limit wait: of what nobody has claimed the first, else of what is
-- not yet due the next. At most 1 MB and one message; returns how many wait then.
local function drop_oldest(door, depth)
  local bytes = 0
  local unread = {}
  for s, stream in ipairs(door.streams) do
    unread[s] = '-'
    local groups = redis.pcall('XINFO', 'GROUPS', stream)
    if not groups.err and groups[1] then
      for i = 1, #groups[1], 2 do
        if groups[1][i] == 'last-delivered-id' then unread[s] = '(' .. groups[1][i + 1] end
      end
    end
  end
  local function first_of(s)
    local entry = redis.call('XRANGE', door.streams[s], unread[s], '+', 'COUNT', 1)[1]
    if not entry then return nil end
    local ms, seq = entry[1]:match('(%d+)-(%d+)')
    local _, _, _, _, sent = fields(entry)
    return {stream = door.streams[s], entry = entry, ms = tonumber(sent) or tonumber(ms), seq = tonumber(seq)}
  end
  local firsts = {}
  for s = 1, #door.streams do firsts[s] = first_of(s) or false end
  for _ = 1, math.min(depth - door.limit, door.take + MOST_MORE_DROPPED) do
    if bytes >= MOST_BYTES then break end
    local oldest
    for s, first in ipairs(firsts) do
      if first and (not oldest or first.ms < firsts[oldest].ms
          or first.ms == firsts[oldest].ms and first.seq < firsts[oldest].seq) then oldest = s end
    end
    if oldest then
      local m, d, _, r, sent = fields(firsts[oldest].entry)
      redis.call('XDEL', firsts[oldest].stream, firsts[oldest].entry[1])
      overflowed(door, m or '', d, r, sent)
      depth, bytes = depth - 1, bytes + #(m or '')
      firsts[oldest] = first_of(oldest) or false
    else
      local delayed, bodies = door.root .. 'delayed:' .. door.queue, door.root .. 'delayed-body:' .. door.queue
      local member = redis.call('ZRANGE', delayed, 0, 0)[1]
      local body, d, sent = scheduled(bodies, member)
      unschedule(delayed, bodies, member)
      overflowed(door, body or '', d, nil, sent)
      depth, bytes = depth - 1, bytes + #(body or '')
    end
  end
  return depth
end

-- Once the admitted are in: makes room for them where the oldest go, and warns when the mailbox fills up. It warns
-- again only after a door has found it half as full as that.
local function close_door(door)
  if door.limit == 0 then return end
  local depth = door.before + door.take
  -- Retries may have filled it beyond its limit; that alone drops nobody.
  if door.overflow == 'drop_oldest' and door.take > 0 and depth > door.limit then
    depth = drop_oldest(door, depth)
  end
  if door.before * 2 <= door.warn_from then redis.call('HDEL', door.flow, 'warned') end
  if depth >= door.warn_from and redis.call('HSETNX', door.flow, 'warned', 1) == 1 then
    note('warning', door.queue, tostring(depth), tostring(door.limit))
  end
end

-- The answer of a script that was to accept several messages.
local function refused(door)
  return {'refused', door.take + door.drop, door.refusal}
end
