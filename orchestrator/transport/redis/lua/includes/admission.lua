--- @include "mailbox_entry"
--- @include "endings"
--- @include "breaker"
--- @include "dead_letters"
-- The admission of a mailbox: its bound and its circuit breaker, as its flow hash has them. A mailbox without that hash
-- takes everything. What was accepted once passes no admission again: retries, returned messages, messages that fall due.

-- How many messages wait: not claimed by anybody, or not yet due.
local function depth_of(admission)
  local depth = redis.call('ZCARD', admission.root .. 'delayed:' .. admission.queue)
  for _, stream in ipairs(admission.streams) do
    local length = redis.call('XLEN', stream)
    if length > 0 then
      local pending = redis.pcall('XPENDING', stream, admission.group)
      depth = depth + length - (pending.err and 0 or pending[1])
    end
  end
  return depth
end

-- Asks for the admission of `wanted` messages. nil: nothing is declared, all may go. Else a table with
-- take: number of messages, from the first, that are accepted; drop: number of the next ones, which are dropped;
-- refusal: why those after them are not accepted.
-- With `strict`, what would be dropped is refused; with `peek`, state is not changed. `message_at` gives the message of a number;
-- without it none is deferred. deferring: the number of those accepted that are to wait behind the breaker, from the first;
-- they must be deferred, not put into a stream, unless they are not yet due.
local function admit(flow, wanted, strict, peek, message_at)
  is_limited_by[flow] = false
  if redis.call('EXISTS', flow) == 0 then return nil end
  local f = redis.call('HMGET', flow, 'root', 'queue', 'levels', 'group', 'limit', 'overflow', 'block_ms', 'warn_from',
    'outcome_ttl_ms', 'open_ms', 'phase', 'deferred', 'concurrency')
  is_limited_by[flow] = f[13] ~= false
  local is_closed = not f[11] or f[11] == 'closed'
  -- As needs_admission.lua has it.
  if not f[1] or is_closed and not f[5] and not f[12] and not f[13] then return nil end
  local admission = {flow = flow, root = f[1], queue = f[2], group = f[4], take = wanted, drop = 0, before = 0,
    limit = tonumber(f[5] or 0), overflow = f[6], warn_from = tonumber(f[8] or 0), ttl_ms = f[9], streams = {},
    deferring = 0}
  for level in f[3]:gmatch('%S+') do
    admission.streams[#admission.streams + 1] = admission.root .. 'q:' .. level .. ':' .. admission.queue
  end
  local is_behind_breaker = message_at and f[10] and (f[12] or not is_closed)
  if f[12] or is_behind_breaker then
    admission.streams[#admission.streams + 1] = deferred_stream(admission.root, admission.queue)
  end
  if f[13] then admission.streams[#admission.streams + 1] = admission.root .. 'q:lanes:' .. admission.queue end
  if admission.limit > 0 then
    admission.before = depth_of(admission)
    local room = math.max(0, admission.limit - admission.before)
    if wanted > room and admission.overflow ~= 'drop_oldest' then
      admission.take = room
      if admission.overflow == 'drop_newest' and not strict then
        admission.drop = wanted - room
      else
        local block_ms = admission.overflow == 'block' and f[7] or '0'
        admission.refusal = {'full', tostring(admission.before), tostring(admission.limit), block_ms}
      end
    end
  end
  if is_behind_breaker then
    while admission.deferring < admission.take + admission.drop and asks_to_be_deferred(message_at(admission.deferring + 1)) do
      admission.deferring = admission.deferring + 1
    end
  end
  local asking = admission.take + admission.drop - admission.deferring
  if asking > 0 then
    local go, wait_ms, isolated = breaker_admits(flow, asking, peek)
    if go < asking then
      go = go + admission.deferring
      admission.drop = math.max(0, math.min(admission.drop, go - admission.take))
      admission.take = math.min(admission.take, go)
      admission.refusal = {'open', tostring(wait_ms), isolated}
    end
    -- Whether a look has done all that asking does.
    admission.is_asked = not peek or not wait_ms
  end
  -- Messages beyond the bound are dropped in any phase of the breaker.
  admission.deferring = math.min(admission.deferring, admission.take)
  return admission
end

-- A message ends as a dead letter because its mailbox is full. It has been accepted.
local function overflowed(admission, m, d, r, s)
  local text = 'the mailbox holds ' .. admission.limit .. ' messages; ' .. admission.overflow
  local letter = why_dead(admission.queue, 'mailbox overflow', 'MailboxFull', text, 0, now_ms())
  local dead = add_dead_letter(admission.root, admission.queue, m, d, r, letter, 'mailbox overflow', 'MailboxFull', '', s or '')
  add_count(admission.root .. 'ledger:' .. admission.queue, 'dead', 1)
  record_if_tracked(admission.root, m, {outcome = 'dead', reason = 'mailbox overflow', attempts = 0, letter_id = dead, error = text},
    admission.ttl_ms, d)
  end_for_celery(admission.root .. 'ledger:' .. admission.queue, m, 'FAILURE', 'MessageDropped', text)
  local message = message_of(m)
  local headers = message and type(message.headers) == 'table' and message.headers or {}
  local orc = type(headers.orc) == 'table' and headers.orc or {}
  emit_event('overflow', admission.queue, tostring(admission.limit), admission.overflow, dead, tostring(headers.id or ''),
    tostring(orc.agent or ''), tostring(orc.message or headers.task or ''), text)
end

-- A script drops at most this many messages more than it accepts. A mailbox far above its limit takes several scripts.
local MOST_MORE_DROPPED = 20

-- Drops what has waited longest until no more than the limit wait: of what is not claimed the first, else of what is
-- not yet due the next. At most 1 MB and one message; returns how many wait then.
local function drop_oldest(admission, depth)
  local bytes = 0
  local unread = {}
  for s, stream in ipairs(admission.streams) do
    unread[s] = '-'
    local groups = redis.pcall('XINFO', 'GROUPS', stream)
    if not groups.err and groups[1] then
      for i = 1, #groups[1], 2 do
        if groups[1][i] == 'last-delivered-id' then unread[s] = '(' .. groups[1][i + 1] end
      end
    end
  end
  local function first_of(s)
    local entry = redis.call('XRANGE', admission.streams[s], unread[s], '+', 'COUNT', 1)[1]
    if not entry then return nil end
    local ms, seq = entry[1]:match('(%d+)-(%d+)')
    local _, _, _, _, sent = fields(entry)
    return {stream = admission.streams[s], entry = entry, ms = tonumber(sent) or tonumber(ms), seq = tonumber(seq)}
  end
  local firsts = {}
  for s = 1, #admission.streams do firsts[s] = first_of(s) or false end
  for _ = 1, math.min(depth - admission.limit, admission.take + MOST_MORE_DROPPED) do
    if bytes >= MOST_BYTES then break end
    local oldest
    for s, first in ipairs(firsts) do
      if first and (not oldest or first.ms < firsts[oldest].ms
          or first.ms == firsts[oldest].ms and first.seq < firsts[oldest].seq) then oldest = s end
    end
    if oldest then
      local m, d, _, r, sent = fields(firsts[oldest].entry)
      redis.call('XDEL', firsts[oldest].stream, firsts[oldest].entry[1])
      overflowed(admission, m or '', d, r, sent)
      depth, bytes = depth - 1, bytes + #(m or '')
      firsts[oldest] = first_of(oldest) or false
    else
      local delayed, bodies = admission.root .. 'delayed:' .. admission.queue, admission.root .. 'delayed-body:' .. admission.queue
      local member = redis.call('ZRANGE', delayed, 0, 0)[1]
      local body, d, sent = scheduled(bodies, member)
      unschedule(delayed, bodies, member)
      overflowed(admission, body or '', d, nil, sent)
      depth, bytes = depth - 1, bytes + #(body or '')
    end
  end
  return depth
end

-- Once the admitted are in: makes room for them where the oldest go, and warns when the mailbox fills up. It warns
-- again only after an admission has found it half as full as that.
local function after_admission(admission)
  if admission.limit == 0 then return end
  local depth = admission.before + admission.take
  -- Retries may have filled it beyond its limit; that alone drops nothing.
  if admission.overflow == 'drop_oldest' and admission.take > 0 and depth > admission.limit then
    depth = drop_oldest(admission, depth)
  end
  if admission.before * 2 <= admission.warn_from then redis.call('HDEL', admission.flow, 'warned') end
  if depth >= admission.warn_from and redis.call('HSETNX', admission.flow, 'warned', 1) == 1 then
    emit_event('warning', admission.queue, tostring(depth), tostring(admission.limit))
  end
end

-- The reply of a script that did not accept all messages.
local function refused(admission)
  return {'refused', admission.take + admission.drop, admission.refusal}
end
