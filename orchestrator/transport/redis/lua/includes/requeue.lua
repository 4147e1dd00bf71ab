--- @include "mailbox_entry"
--- @include "endings"
--- @include "breaker"
--- @include "dead_letters"
--- @include "cancel_mark"
--- @include "end_permits"
-- Deaths that count against no message: it is not proved that the process ended.
local UNPROVED = {lost = true, stuck = true}
-- A message whose holders ended so this often while they ran it is a dead letter too, though not as poison.
local MOST_UNPROVED = 10

-- How many of a message's deaths count against it. A death that its process has disproved since is marked as that; the
-- death of a pool process was seen by its worker, whatever became of the worker.
local function counted(root, deaths)
  local count = 0
  for _, one in ipairs(deaths) do
    if type(one) ~= 'table' then
      count = count + 1
    else
      if not one.child and type(one.by) == 'string' and redis.call('ZSCORE', root .. 'disproved', one.by) then
        one.disproved = true
      end
      if not one.disproved and not UNPROVED[one.reason] then count = count + 1 end
    end
  end
  return count
end

-- How often its handler raised SystemExit (sys.exit), by which no process need have ended.
local function exits(deaths)
  local count = 0
  for _, one in ipairs(deaths or {}) do
    if type(one) == 'table' and one.reason == 'exited' then count = count + 1 end
  end
  return count
end

local function why_poison(deaths, count)
  local left = exits(deaths)
  if left >= count then return 'it raised SystemExit (sys.exit) ' .. count .. ' times' end
  local some = left > 0 and ', ' .. left .. ' of these by SystemExit (sys.exit)' or ''
  return 'its worker died ' .. count .. ' times while running it' .. some
end

-- Ends a message that must not run again: a worker that had it has died, and may have begun it.
local function end_for_death(root, queue, m, d, r, s, deaths, by, ttl_ms)
  local headers = message_of(m).headers
  local ledger, orc, attempts = root .. 'ledger:' .. queue, headers.orc, math.max(1, #(deaths or {}))
  local how = exits(deaths) > 0 and 'it raised SystemExit (sys.exit)' or 'its worker died while it had it'
  local why, letter_id = how .. ', and on_death is fail', nil
  if orc.on_error ~= 'ignore' then
    local letter = why_dead(queue, 'worker died', 'WorkerLost', why, attempts, now_ms(), by)
    letter_id = add_dead_letter(root, queue, m, d, r, letter, 'worker died', 'WorkerLost', '', s)
  end
  add_count(ledger, 'dead', 1)
  record_if_tracked(root, m, {outcome = 'dead', reason = 'worker died', attempts = attempts, letter_id = letter_id,
    error = 'WorkerLost: ' .. why}, ttl_ms, deaths)
  end_for_celery(ledger, m, 'FAILURE', 'WorkerLostError', why, true)
  emit_event('worker_died', text(headers.id), text(orc.agent), text(orc.message), tostring(attempts), queue, letter_id or '', why,
    text(headers.task))
end

local function fails_on_death(m)
  if not m or not m:find('"on_death"', 1, true) then return false end
  local headers = (message_of(m) or {}).headers
  return type(headers) == 'table' and type(headers.orc) == 'table' and headers.orc.on_death == 'fail'
end

-- Takes an entry from its holder and puts it before all other messages of its priority; with a death in its history if there is
-- one, and into the dead-letter stream when those are too many. `unattributed` is 1 if its holder died and it was not marked: no
-- message is suspect then, see isolation.py. `interrupted` says that it was being executed, `undelivered` that no consumer was given
-- it; `begun` that it was being executed by one that ended as planned, or gave it up. Returns 'returned', 'cancelled' or the reason of its dead
-- letter, and its bytes; nil if it was not pending.
local function requeue(root, queue, stream, group, id, death, unattributed, max_deaths, ttl_ms, interrupted,
    undelivered, begun)
  -- Its deaths are decoded and encoded before it is taken out: an error after that would lose it.
  local entry = redis.call('XRANGE', stream, id, id)[1] or {id, {}}
  local m, d, u, r, s, n = fields(entry)
  local deaths, count
  if death then
    deaths = writable(read_json(d) or {})
    deaths[#deaths + 1] = death
    count = counted(root, deaths)
    d = cjson.encode(deaths)
  end
  local is_final = (death or unattributed > 0 or interrupted or begun) and fails_on_death(m)
  local reason, why
  if death and count >= max_deaths then
    reason, why = 'poison', why_poison(deaths, count)
  elseif death and #deaths - count >= MOST_UNPROVED then
    reason, why = 'workers lost', 'its worker was taken for dead ' .. #deaths - count .. ' times while running it'
  end
  -- Raises if it is a key of another type, as long as nothing is done.
  if is_final or reason then redis.call('XLEN', root .. 'dead-letters') end
  if redis.call('XACK', stream, group, id) == 0 or redis.call('XDEL', stream, id) == 0 then return nil end
  -- A key of another type that is met from here on must not lose the message: it goes back to where it was.
  local placed
  local ok, result, size = pcall(function()
    local ledger = root .. 'ledger:' .. queue
    local lanes = redis.call('EXISTS', root .. 'permits:' .. queue) == 1 and lanes_of(root, queue)
    local permit = lanes and permit_of(lanes, stream, id)
    if death then pcall(breaker_failed, flow_of(ledger), m) end
    if is_final then
      placed = 'worker died'
      end_for_death(root, queue, m, d, r, s, deaths, death and death.by or nil, ttl_ms)
      if lanes then end_permit(lanes, permit) end
      return 'worker died', #m
    end
    if reason then
      local letter = why_dead(queue, reason, 'WorkerLost', why, #deaths, death.at, death.by)
      local dead = add_dead_letter(root, queue, m, d, r, letter, reason, 'WorkerLost', '', s)
      placed = reason
      add_count_afterwards(ledger, 'dead', 1)
      record_if_tracked(root, m, {outcome = 'dead', reason = reason, attempts = #deaths, letter_id = dead,
        error = why}, ttl_ms, deaths)
      end_for_celery(ledger, m, 'FAILURE', reason == 'poison' and 'PoisonMessage' or 'WorkerLostError', why, true)
      local message = readable(m) or {}
      local headers = type(message.headers) == 'table' and message.headers or {}
      local orc = type(headers.orc) == 'table' and headers.orc or {}
      emit_event('poison', text(headers.id), text(orc.agent), text(orc.message or headers.task), tostring(#deaths), reason,
        queue, dead, why, text(headers.task))
      if lanes then end_permit(lanes, permit) end
      return reason, #(m or '')
    end
    -- Few are cancelled, and only for them is every message read.
    if redis.call('EXISTS', root .. 'cancelling') == 1 then
      local message = message_of(m)
      local headers = message and message.headers
      if type(headers) == 'table' and type(headers.id) == 'string'
          and cancelled_meanwhile(root .. 'outcome:' .. headers.id, ledger, m, d, ttl_ms) then
        if lanes then end_permit(lanes, permit) end
        return 'cancelled', #m
      end
    end
    if death or interrupted then add_count_afterwards(ledger, 'restarted', 1) end
    -- Its stream is root .. 'q:LEVEL:' .. queue; what comes back a second time is in a level for it already.
    local level = stream:sub(#root + 3, -#queue - 2)
    if not undelivered then
      n = nil
    elseif level:sub(1, 9) ~= 'returned-' then
      n = '1'
    end
    if level:sub(1, 9) ~= 'returned-' then level = 'returned-' .. level end
    if unattributed > 0 then u = (tonumber(u) or 0) + unattributed end
    local to = root .. 'q:' .. level .. ':' .. queue
    local now_at = put(to, m or '', d, u, r, s, n)
    placed = 'returned'
    if lanes then move_permit(lanes, permit, permit_of(lanes, to, now_at)) end
    if not undelivered then add_count_afterwards(ledger, 'redelivered', 1) end
    return 'returned', #(m or '')
  end)
  if ok then return result, size end
  if not placed then
    redis.call('XADD', stream, '*', unpack(entry[2]))
    ring_doorbell(stream)
  end
  return placed or 'returned', #(m or '')
end
