-- How many messages wait in some mailboxes, and the state of their flow control.
-- KEYS: leases (not read). ARGV: root, group, number of levels, levels…, queues…
-- Returns {{queue, waiting, not yet due, held, ms that the oldest has waited or -1, bound or '', overflow or '', breaker's phase
-- or '', ms until it admits a probe, why it is isolated or '', how many of those waiting are deferred, how many are in lanes, and
-- the host for which it is on hold or ''}, …}; of the first queues only, if their messages are large.
-- Costs: up to five commands a stream, so callers name at most 50 queues; reads one message of each stream, at most 1 MB and
-- those of one mailbox.
--- @include "mailbox_entry"
local root, group = ARGV[1], ARGV[2]
local levels = tonumber(ARGV[3])
local FIRST_LEVEL = 4
local now = now_ms()

-- One message larger than this is not read for its age alone.
local LARGE = 1048576

local bytes_read = 0
local function first_unclaimed_ms(stream, length)
  local bytes = redis.pcall('MEMORY', 'USAGE', stream, 'SAMPLES', 1)
  if type(bytes) == 'number' and bytes / length > LARGE then return nil end
  local from = '-'
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, reported in ipairs(groups.err and {} or groups) do
    local found = {}
    for i = 1, #reported, 2 do found[reported[i]] = reported[i + 1] end
    if found['name'] == group then from = '(' .. found['last-delivered-id'] end
  end
  local first = redis.call('XRANGE', stream, from, '+', 'COUNT', 1)[1]
  if not first then return nil end
  bytes_read = bytes_read + size_of(first)
  -- What was returned has waited since before its entry's id.
  local _, _, _, _, since = fields(first)
  return tonumber(since)
end

local out = {}
for q = FIRST_LEVEL + levels, #ARGV do
  if bytes_read >= MOST_BYTES then break end
  local queue = ARGV[q]
  local waiting, held, since = 0, 0, nil
  for s = FIRST_LEVEL, FIRST_LEVEL - 1 + levels do
    local stream = root .. 'q:' .. ARGV[s] .. ':' .. queue
    local length = redis.call('XLEN', stream)
    local pending = length > 0 and redis.pcall('XPENDING', stream, group)
    local claimed = pending and not pending.err and pending[1] or 0
    held = held + claimed
    if length > claimed then
      waiting = waiting + length - claimed
      local ms = first_unclaimed_ms(stream, length)
      if ms then since = math.min(since or ms, ms) end
    end
  end
  local delayed = root .. 'delayed:' .. queue
  local due = redis.call('ZCOUNT', delayed, '-inf', now)
  if due > 0 then
    local ms = tonumber(redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2])
    since = math.min(since or ms, ms)
  end
  local flow = redis.call('HMGET', root .. 'flow:' .. queue, 'limit', 'overflow', 'open_ms', 'phase', 'until_ms', 'why', 'on_hold')
  local phase = flow[3] and (flow[4] or 'closed') or ''
  out[#out + 1] = {queue, waiting + due, redis.call('ZCARD', delayed) - due, held,
    since and math.max(0, now - since) or -1, flow[1] or '', flow[2] or '', phase,
    phase == 'open' and math.max(0, tonumber(flow[5] or 0) - now) or 0,
    phase == 'isolated' and flow[6] or '', redis.call('XLEN', root .. 'q:deferred:' .. queue),
    redis.call('XLEN', root .. 'q:lanes:' .. queue), flow[7] or ''}
end
return out
