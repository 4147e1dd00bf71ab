--- @include "clock"
--- @include "mailbox_entry"
--- @include "deferred"
--- @include "script_events"
-- The circuit breaker before a mailbox: core/admission/breaker.py, in Redis. Its policy and state are fields of the mailbox'
-- flow hash; a mailbox without the field `open_ms` has none.

-- As SLICES in core/admission/breaker.py.
local SLICES = 10

local function breaker_of(flow)
  local f = redis.call('HMGET', flow, 'open_ms', 'window_ms', 'failures', 'least', 'failure_rate', 'slow_rate', 'probes',
    'callers', 'queue', 'phase', 'until_ms', 'failed_ms', 'why', 'slices', 'hosts', 'admitted', 'probes_handled',
    'deferred', 'root')
  if not f[1] then return nil end
  local b = {flow = flow, open_ms = tonumber(f[1]), window_ms = tonumber(f[2]), failures = tonumber(f[3]), least = tonumber(f[4]),
    failure_rate = tonumber(f[5]), slow_rate = tonumber(f[6]), probes = tonumber(f[7] or 1), callers = tonumber(f[8] or 1),
    queue = f[9] or '', phase = f[10] or 'closed', until_ms = tonumber(f[11] or 0), why = f[13] or '', recent = {}, slices = {}, hosts = {},
    root = f[19], is_deferring = f[18]}
  for at in (f[12] or ''):gmatch('%d+') do b.recent[#b.recent + 1] = tonumber(at) end
  for number, ended, failed, slow in (f[14] or ''):gmatch('(%d+):(%d+):(%d+):(%d+)') do
    b.slices[#b.slices + 1] = {number = tonumber(number), ended = tonumber(ended), failed = tonumber(failed), slow = tonumber(slow)}
  end
  for at, host in (f[15] or ''):gmatch('(%d+) (%S*)\n') do b.hosts[#b.hosts + 1] = {at = tonumber(at), name = host} end
  -- Without the count, all probes are under way: they were one when it went half-open.
  b.admitted = tonumber(f[16] or 0)
  if b.phase == 'half_open' and not f[16] then b.admitted = b.probes end
  b.handled = tonumber(f[17] or 0)
  return b
end

-- Begins a phase, with nothing counted. The reason of a former isolation stays behind, and is not read.
local function turn(b, phase, until_ms)
  if phase ~= b.phase then emit_event('breaker', phase, b.queue, phase == 'isolated' and b.why or '') end
  b.phase, b.until_ms, b.recent, b.slices, b.hosts, b.admitted, b.handled = phase, until_ms, {}, {}, {}, 0, 0
end

-- Writes the state. What its policy does not need is not written.
local function save(b)
  local recent = {}
  for i, at in ipairs(b.recent) do recent[i] = string.format('%.0f', at) end
  local state = {'phase', b.phase, 'failed_ms', table.concat(recent, ' '), 'until_ms', b.until_ms}
  if b.least then
    local slices = {}
    for i, s in ipairs(b.slices) do slices[i] = string.format('%.0f:%d:%d:%d', s.number, s.ended, s.failed, s.slow) end
    state[#state + 1], state[#state + 2] = 'slices', table.concat(slices, ' ')
  end
  if b.callers > 1 then
    local hosts = {}
    for i, host in ipairs(b.hosts) do hosts[i] = string.format('%.0f %s\n', host.at, host.name) end
    state[#state + 1], state[#state + 2] = 'hosts', table.concat(hosts)
  end
  if b.probes > 1 then
    for name, value in pairs({admitted = b.admitted, probes_handled = b.handled}) do
      state[#state + 1], state[#state + 2] = name, value
    end
  end
  redis.call('HSET', b.flow, unpack(state))
end

-- Returns the number admitted of `wanted` messages, the ms to wait before asking again if not all are, and why the breaker is
-- isolated if it is. With `peek`, state is not changed.
local function breaker_admits(flow, wanted, peek)
  local b = breaker_of(flow)
  if not b or b.phase == 'closed' then return wanted end
  if b.phase == 'isolated' then return 0, b.open_ms, b.why end
  local now = now_ms()
  local wait = b.until_ms - now
  local admitted = 0
  if wait > 0 and wait <= b.open_ms then
    if b.phase == 'half_open' then admitted = math.min(wanted, math.max(0, b.probes - b.admitted)) end
    if admitted == 0 then return 0, wait end
    b.admitted = b.admitted + admitted
  else
    wait, admitted = b.open_ms, math.min(wanted, b.probes)
    local handled = b.handled
    if not peek then turn(b, 'half_open', now + b.open_ms) end
    b.admitted, b.handled = admitted, handled
  end
  if not peek then save(b) end
  return admitted, wait
end

-- Counts one more attempt of a closed breaker, and opens it if that is one too many.
local function count_attempt(b, now, failed, slow)
  local ended, failures, slow_ones = 0, 0, 0
  if b.least then
    local number = math.floor(now / math.max(1, math.ceil(b.window_ms / SLICES)))
    local kept = {}
    for _, s in ipairs(b.slices) do
      if s.number > number - SLICES and s.number <= number then kept[#kept + 1] = s end
    end
    local last = kept[#kept]
    if not last or last.number ~= number then
      last = {number = number, ended = 0, failed = 0, slow = 0}
      kept[#kept + 1] = last
    end
    last.ended, last.failed, last.slow = last.ended + 1, last.failed + failed, last.slow + slow
    b.slices = kept
    for _, s in ipairs(kept) do ended, failures, slow_ones = ended + s.ended, failures + s.failed, slow_ones + s.slow end
  end
  local enough = b.least and ended >= b.least
  local too_slow = enough and b.slow_rate and slow_ones >= b.slow_rate * ended
  local too_many = b.failures and #b.recent >= b.failures or enough and b.failure_rate and failures >= b.failure_rate * ended
  if too_many and b.callers > 1 then
    local hosts = 0
    for _, host in ipairs(b.hosts) do
      if host.at > now - b.window_ms and host.at <= now then hosts = hosts + 1 end
    end
    too_many = hosts >= b.callers
  end
  if too_slow or too_many then turn(b, 'open', now + b.open_ms) end
end

local function remember_failure(b, now, host)
  if b.failures then
    local recent = {}
    for _, at in ipairs(b.recent) do
      if at > now - b.window_ms and at <= now then recent[#recent + 1] = at end
    end
    recent[#recent + 1] = now
    if #recent > b.failures then table.remove(recent, 1) end
    b.recent = recent
  end
  if b.callers > 1 then
    local hosts = {}
    for _, one in ipairs(b.hosts) do
      if one.name ~= host and one.at > now - b.window_ms and one.at <= now then hosts[#hosts + 1] = one end
    end
    hosts[#hosts + 1] = {name = host, at = now}
    if #hosts > b.callers then table.remove(hosts, 1) end
    b.hosts = hosts
  end
end

-- Deferred messages that one script lets go, at most.
local MOST_LET_GO = 200

-- Lets deferred messages go, as many as the breaker admits. Returns how many.
local function let_admitted_go(flow, root, queue)
  local waiting = redis.call('XLEN', deferred_stream(root, queue))
  local admitted = waiting > 0 and breaker_admits(flow, math.min(waiting, MOST_LET_GO)) or 0
  if waiting > 0 and admitted == 0 then return 0 end
  return let_go(flow, root, queue, admitted)
end

-- The host from which a message was sent.
local function host_of(m)
  local message = message_of(m)
  local origin = message and type(message.headers) == 'table' and message.headers.origin
  local host = type(origin) == 'string' and origin:match('^[^@]*@(.*)$') or ''
  return (host:gsub('[\128-\191]', ''):gsub('[^!-~]', '_'):sub(1, 64))
end

-- An attempt failed, or `count` of the same message's host. Of the host and the message, one is enough.
local function breaker_failed(flow, m, host, count)
  local b = breaker_of(flow)
  if not b or b.phase == 'open' or b.phase == 'isolated' then return end
  local now = now_ms()
  if b.callers > 1 and not host then host = host_of(m) end
  for _ = 1, count or 1 do
    if b.phase == 'half_open' then
      turn(b, 'open', now + b.open_ms)
    elseif b.phase == 'closed' then
      remember_failure(b, now, host)
      count_attempt(b, now, 1, 0)
    end
  end
  save(b)
end

-- A message has no attempt left: a failure, unless it was not the agent's fault. What expired was never tried.
local not_the_agents = {
  malformed = true, validation = true, ['unknown task'] = true, ['unknown message'] = true, expired = true}
local function breaker_dead(flow, reason, m, host, count)
  if not not_the_agents[reason or ''] then breaker_failed(flow, m, host, count) end
end

-- `count` messages were handled; `slow` if each took longer than its agent's `slow_s`.
local function breaker_succeeded(flow, slow, count)
  local f = redis.call('HMGET', flow, 'phase', 'least')
  if f[1] == 'open' or f[1] == 'isolated' or f[1] ~= 'half_open' and not f[2] then return end
  local b = breaker_of(flow)
  if not b then return end
  local now = now_ms()
  for _ = 1, count or 1 do
    if b.phase == 'closed' then
      if b.least then count_attempt(b, now, 0, slow and 1 or 0) end
    elseif b.phase == 'half_open' then
      if slow and b.slow_rate then
        turn(b, 'open', now + b.open_ms)
      elseif b.handled + 1 >= b.probes then
        turn(b, 'closed', 0)
      else
        b.handled = b.handled + 1
      end
    end
  end
  save(b)
  if b.is_deferring and b.phase == 'closed' then let_go(flow, b.root, b.queue, MOST_LET_GO) end
end

-- How a settled delivery ended, as its worker says it: a reason, or `slow`; behind a line's end the host that sent it.
local function ending_of(text)
  local reason, host = (text or ''):match('^([^\n]*)\n?(.*)$')
  return reason, host
end
