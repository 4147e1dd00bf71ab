--- @include "clock"
--- @include "script_events"
-- The circuit breaker before a mailbox: core/breaker.py, in Redis. Its policy and state are fields of the mailbox'
-- flow hash; a mailbox without the field `failures` has none.
local function breaker_of(flow)
  local f = redis.call('HMGET', flow, 'failures', 'window_ms', 'open_ms', 'phase', 'failed_ms', 'until_ms', 'queue', 'why')
  if not f[1] then return nil end
  return {flow = flow, failures = tonumber(f[1]), window_ms = tonumber(f[2]), open_ms = tonumber(f[3]),
    phase = f[4] or 'closed', failed_ms = f[5] or '', until_ms = tonumber(f[6] or 0), queue = f[7] or '', why = f[8]}
end

-- The reason of a former isolation stays behind, and is not read.
local function turn(b, phase, failed_ms, until_ms)
  redis.call('HSET', b.flow, 'phase', phase, 'failed_ms', failed_ms, 'until_ms', until_ms)
  if phase ~= b.phase then emit_event('breaker', phase, b.queue, phase == 'isolated' and b.why or '') end
end

-- Returns the number admitted of `wanted` messages, the ms to wait before asking again if not all are, and why the breaker is
-- isolated if it is. With `peek`, state is not changed.
local function breaker_admits(flow, wanted, peek)
  local b = breaker_of(flow)
  if not b or b.phase == 'closed' then return wanted end
  if b.phase == 'isolated' then return 0, b.open_ms, b.why or '' end
  local now = now_ms()
  local wait = b.until_ms - now
  if wait > 0 and wait <= b.open_ms then return 0, wait end
  if not peek then turn(b, 'half_open', '', now + b.open_ms) end
  return 1, b.open_ms
end

local function breaker_failed(flow)
  local b = breaker_of(flow)
  if not b or b.phase == 'open' or b.phase == 'isolated' then return end
  local now = now_ms()
  if b.phase == 'closed' then
    local recent = {}
    for at in b.failed_ms:gmatch('%d+') do
      if tonumber(at) > now - b.window_ms and tonumber(at) <= now then recent[#recent + 1] = at end
    end
    recent[#recent + 1] = string.format('%.0f', now)
    if #recent < b.failures then return turn(b, 'closed', table.concat(recent, ' '), 0) end
  end
  turn(b, 'open', '', now + b.open_ms)
end

-- A message has no attempt left: a failure, unless it was not the agent's fault. What expired was never tried.
local not_the_agents = {
  malformed = true, validation = true, ['unknown task'] = true, ['unknown message'] = true, expired = true}
local function breaker_dead(flow, reason)
  if not not_the_agents[reason or ''] then breaker_failed(flow) end
end

local function breaker_succeeded(flow)
  if redis.call('HGET', flow, 'phase') ~= 'half_open' then return end
  local b = breaker_of(flow)
  if b then turn(b, 'closed', '', 0) end
end
