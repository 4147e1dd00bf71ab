--- @include "mailbox_entry"
--- @include "endings"
--- @include "script_events"
-- Runs of workflows: a step's recorded outcome releases the steps that depend on it, in the same script. core/run.py is the
-- same rule in Python.
-- A run's key is ROOT .. 'run:' .. its uid. The keys beside it:
--   :plan       hash: step -> what it is, one value a line (see core/workflow_plan.py)
--   :templates  hash: number -> the text of a message with placeholders @NONCE:name@
--   :states     hash: step -> its state; a step for which no dependency has ended has none
--   :outcomes   hash: step -> its outcome as JSON, byte for byte
--   :maps       hash: map step -> items ended, not handled, in all, sent
--   :agenda     list: work that no script has done yet, KIND:STEP:POSITION (see runs.DO)
--   :ready      list: steps that begin once the run goes on
--   :undo       list: handled steps with a compensation, in the order in which they ended
--   :events     hash: event -> its payload as JSON
--   :held       list: messages that wait for their next attempt, and are not to begin during a pause (see runs.hold)
--   :calls      hash: step -> the calls that it has made, if it is a workflow function (see run_calls.lua)
--   :unplaced   sorted set: steps for which no agent lives that offers what they need (see run_placement.lua)
--   :ended      list of one: the state in which the run ended, so that BLMOVE can wait for it
-- A step is its number; an item of a map is MAP.ITEM; the compensation of a step is 'u' .. the step.
-- A state is one character and its values: w waits (dependencies ended, of these not handled); r ready; s sent (its entry);
-- u waits for an event or a time; n unplaced; m a map that has begun (m3: its failed items are sent again, from item 3 on); x other
-- steps have taken its place (see run_expansions.lua); y waits for its calls (see run_calls.lua); h handled; d dead; e expired; c
-- cancelled; k skipped.
local runs = {
  -- Steps that one script deals with, and the bytes of a message that count as one more.
  BUDGET = 200,
  -- Steps of a run that it deals with in passing, and runs that it begins one within the other.
  OTHERS = 50,
  DEPTH = 20,
  BYTES = 5000,
  -- The longest outcomes, taken together, that a message has with it.
  INPUT_BYTES = 1000,
  CANCELLED = '{"outcome":"cancelled","by":"its run was cancelled"}',
  LETTERS = {handled = 'h', dead = 'd', expired = 'e', cancelled = 'c'},
  NAMES = {h = 'handled', d = 'dead', e = 'expired', c = 'cancelled', k = 'skipped'},
  PARTS = {':plan', ':templates', ':states', ':outcomes', ':maps', ':agenda', ':ready', ':undo', ':events', ':held',
    ':calls', ':ended', ':unplaced'},
  FAILED = {d = true, e = true, c = true},
  -- A failed step has stopped the run: what would begin is kept until a replayed letter revives it.
  STOPPED = {stopping = true, failed = true},
  -- Why no step of a run in such a state is retried; in any other it is, or was, compensated.
  NO_RETRY = {cancelled = 'run cancelled', completed = 'run completed'},
  PLAN = '^(%a)\n' .. ('([^\n]*)\n'):rep(13) .. '([^\n]*)$',
  -- How long after a step's death the replay of its dead letter can revive the run.
  DEAD_MS = 2592000000,
  -- When a message is due that is held by a pause: the year 9999.
  NEVER_MS = 253402300800000,
}

runs.open = function(key)
  local f = redis.call('HMGET', key, 'state', 'paused', 'on_failure', 'nonce', 'root', 'group', 'outcome_ttl_ms',
    'id_json', 'ended_ms', 'held')
  if not f[1] or f[1] == 'writing' then return nil end
  return {key = key, state = f[1], paused = f[2] == '1', on_failure = f[3], nonce = f[4], root = f[5], group = f[6],
    ttl_ms = f[7], id = f[8], over = f[9], held = f[10], uid = key:sub(#f[5] + 5), counts = {}, work = {}, plans = {}, texts = {},
    left = runs.BUDGET}
end

runs.plan = function(r, step)
  local number = step:match('^u?%d+') or step
  local plan = r.plans[number]
  if not plan then
    local kind, name, template, queue, level, dependencies, when, guarded, undo, dependents, options, inputs, body, args,
      kwargs =
      redis.call('HGET', r.key .. ':plan', number):match(runs.PLAN)
    plan = {kind = kind, name = name, template = template, queue = queue, level = level, when = when,
      dependencies = tonumber(dependencies), guarded = guarded == '1', undo = undo == '1', dependents = dependents,
      options = options, inputs = inputs, body = body, args = args, kwargs = kwargs}
    r.plans[number] = plan
  end
  return plan
end

runs.count = function(r, name, by)
  r.counts[name] = (r.counts[name] or 0) + by
end

runs.state = function(r, step)
  return redis.call('HGET', r.key .. ':states', step) or ''
end

runs.set_state = function(r, step, state)
  redis.call('HSET', r.key .. ':states', step, state)
end

runs.set_run = function(r, state)
  r.state = state
  redis.call('HSET', r.key, 'state', state)
end

-- A count as it is now.
runs.counted = function(r, name)
  return tonumber(redis.call('HGET', r.key, name) or 0) + (r.counts[name] or 0)
end

runs.plan_work = function(r, kind, step, at)
  r.work[#r.work + 1] = kind .. ':' .. step .. ':' .. (at or 0)
end

-- The id of a step's delivery.
runs.delivery = function(r, step)
  return r.uid .. '.' .. step
end

runs.park = function(r, step)
  runs.set_state(r, step, 'r')
  redis.call('RPUSH', r.key .. ':ready', step)
end

-- The outcomes that a step's message refers to, as a JSON object; 1 if its worker is to read them.
runs.inputs = function(r, plan)
  if plan.inputs == '' then return '1' end
  local numbers = {}
  for number in plan.inputs:gmatch('%d+') do numbers[#numbers + 1] = number end
  local bytes, members = 0, redis.call('HMGET', r.key .. ':outcomes', unpack(numbers))
  for i, number in ipairs(numbers) do
    local outcome = members[i] or 'null'
    bytes = bytes + #outcome
    if bytes > runs.INPUT_BYTES then return '1' end
    members[i] = '"' .. number .. '":' .. outcome
  end
  return '{' .. table.concat(members, ',') .. '}'
end

runs.send = function(r, step, plan)
  if plan.queue == '' then
    plan = runs.place(r, step, plan)
    if not plan then return end
  end
  local id, template = runs.delivery(r, step), r.texts[plan.template]
  if not template then
    template = redis.call('HGET', r.key .. ':templates', plan.template)
    r.texts[plan.template] = template
  end
  local values = {id = id, uid = r.uid, run = r.id, step = step, name = plan.name, body = plan.body, args = plan.args,
    kwargs = plan.kwargs, inputs = runs.inputs(r, plan)}
  local m = template:gsub('@' .. r.nonce .. ':(%l+)@', values)
  local entry = put(r.root .. 'q:' .. plan.level .. ':' .. plan.queue, m)
  count_accepted(r.root .. 'ledger:' .. plan.queue, 1)
  redis.call('HSET', r.root .. 'hooks:' .. id, 'run', r.key, 'step', step)
  runs.set_state(r, step, 's' .. entry .. (plan.place or ''))
  runs.count(r, 'open', 1)
  r.left = r.left - 1 - math.floor(#m / runs.BYTES)
end

-- A step ends without a message. `reason` and `error` say why it is dead, if it is.
runs.end_unsent = function(r, step, outcome, reason, error)
  local json = '{"outcome":"handled","result":null,"attempts":0}'
  if reason then json = cjson.encode({outcome = outcome, reason = reason, error = error, attempts = 0}) end
  redis.call('HSET', r.key .. ':outcomes', step, json)
  runs.ended(r, step, outcome)
end

-- A step ends because its run was cancelled before it began.
runs.cancelled = function(r, step)
  redis.call('HSET', r.key .. ':outcomes', step, runs.CANCELLED)
  runs.set_state(r, step, 'c')
  runs.count(r, 'cancelled', 1)
  local map = step:match('^(%d+)%.')
  if map then runs.item_ended(r, map, false) end
end

-- How many items a map has: of a list in the result of a step, or of another map; nil if there is no list,
-- and whether that is because a result has no such part.
runs.items = function(r, options)
  local over = {path = options.path}
  over[runs.plan(r, options.over).kind == 'm' and 'map' or 'step'] = options.over
  local value, refers, missing = runs.follow(r, over)
  if missing then return nil, true end
  if type(value) ~= 'table' then return nil end
  local reference = refers and value['$orc']
  if reference and reference.map then
    local of = runs.map(r, reference.map)
    return of and of.items
  elseif reference then
    return runs.number_in(reference.steps)
  end
  if #value == 0 and next(value) ~= nil then return nil end
  return #value
end

runs.map = function(r, map)
  local ended, unhandled, items, sent =
    (redis.call('HGET', r.key .. ':maps', map) or ''):match('^(%d+),(%d+),(%d+),(%d+)$')
  if not ended then return nil end
  return {ended = tonumber(ended), unhandled = tonumber(unhandled), items = tonumber(items), sent = tonumber(sent)}
end

runs.set_map = function(r, map, of)
  redis.call('HSET', r.key .. ':maps', map, ('%d,%d,%d,%d'):format(of.ended, of.unhandled, of.items, of.sent))
end

runs.begin_map = function(r, step, plan)
  local options = cjson.decode(plan.options)
  local items, missing = runs.items(r, options)
  if not items then
    local fault = missing and 'InvalidStepInput: a result has no such part: ' or 'map over what is no list: '
    runs.end_unsent(r, step, 'dead', 'validation', fault .. options.says)
    return
  end
  runs.set_map(r, step, {ended = 0, unhandled = 0, items = items, sent = 0})
  if items == 0 then
    runs.end_unsent(r, step, 'handled')
    return
  end
  runs.set_state(r, step, 'm')
  runs.plan_work(r, 'x', step)
end

runs.begin_wait = function(r, step, plan)
  local options = cjson.decode(plan.options)
  runs.count(r, 'open', 1)
  local payload = options.event and redis.call('HGET', r.key .. ':events', options.event)
  if payload then
    runs.happened(r, step, payload)
    return
  end
  runs.set_state(r, step, 'u')
  if options.ms then
    redis.call('ZADD', r.root .. 'timers', now_ms() + options.ms, runs.timer(r, step))
  end
end

-- A step's member in the sorted set of timers.
runs.timer = function(r, step)
  return 'run:' .. r.uid .. ':' .. step
end

-- What a step waited for has happened; `payload` is JSON.
runs.happened = function(r, step, payload)
  runs.count(r, 'open', -1)
  redis.call('ZREM', r.root .. 'timers', runs.timer(r, step))
  redis.call('HSET', r.key .. ':outcomes', step, '{"outcome":"handled","attempts":0,"result":' .. payload .. '}')
  runs.ended(r, step, 'handled')
end

-- The time of a wait has come: a wait for a time is handled; a wait for an event is dead, for none came. An unplaced step is dead,
-- for no agent came.
runs.time_came = function(r, step)
  local state = runs.state(r, step)
  if state == 'n' then runs.give_up(r, step) end
  if state ~= 'u' then return end
  if cjson.decode(runs.plan(r, step).options).event then
    runs.count(r, 'open', -1)
    runs.end_unsent(r, step, 'dead', 'timeout', 'the event did not come in time')
  else
    runs.happened(r, step, 'null')
  end
end

runs.begin = function(r, step)
  local plan = runs.plan(r, step)
  if plan.kind == 't' or step:find('.', 1, true) then
    runs.send(r, step, plan)
  elseif plan.kind == 'j' then
    runs.end_unsent(r, step, 'handled')
  elseif plan.kind == 'm' then
    runs.begin_map(r, step, plan)
  else
    runs.begin_wait(r, step, plan)
  end
end

runs.release = function(r, step)
  if runs.STOPPED[r.state] or r.state == 'running' and r.paused then
    runs.park(r, step)
  elseif r.state == 'running' then
    runs.begin(r, step)
  end
end

-- One dependency of a step has ended. When all have, it begins or is skipped.
runs.dependency_ended = function(r, step, handled)
  if r.state ~= 'running' and not runs.STOPPED[r.state] then return end
  local state = runs.state(r, step)
  if state ~= '' and state:sub(1, 1) ~= 'w' then return end
  local plan = runs.plan(r, step)
  local ended, unhandled = state:match('^w(%d+),(%d+)$')
  ended, unhandled = (tonumber(ended) or 0) + 1, (tonumber(unhandled) or 0) + (handled and 0 or 1)
  if ended < plan.dependencies then
    runs.set_state(r, step, 'w' .. ended .. ',' .. unhandled)
    return
  end
  local when = plan.when
  if when == 'all_ended' or when == 'all_handled' and unhandled == 0 or when == 'any_handled' and unhandled < ended
      or when == 'any_failed' and unhandled > 0 then
    runs.release(r, step)
  else
    runs.set_state(r, step, 'k')
    runs.count(r, 'skipped', 1)
    if when == 'any_handled' then runs.fail_expansion(r, plan) end
    if when == 'any_handled' and not plan.guarded then
      runs.failed(r)
    else
      runs.plan_work(r, 'd', step)
    end
  end
end

-- A step is dead: its errbacks begin, unless another step has called them; e12 in :outcomes says which has called 12.
runs.call_errbacks = function(r, step, plan)
  for first, last in (plan.options:match('"errbacks": ?"([%d,-]+)"') or ''):gmatch('(%d+)%-?(%d*)') do
    first = tonumber(first)
    for number = first, tonumber(last) or first do
      local errback = ('%d'):format(number)
      if runs.state(r, errback) == '' then
        local called = {outcome = 'dead', step = step, task = plan.options:match('"task": ?"([^"]+)"')}
        redis.call('HSET', r.key .. ':outcomes', 'e' .. errback, cjson.encode(called))
        runs.release(r, errback)
      end
    end
  end
end

-- A step that is not guarded has failed. If that stops the run, its waits are parked, so that it can end.
runs.failed = function(r)
  runs.count(r, 'failures', 1)
  if r.state == 'running' and r.on_failure ~= 'continue' then
    runs.set_run(r, 'stopping')
    runs.plan_work(r, 'w', '')
  end
end

-- Calls `act` with each number in `ranges`, from the place `from` on. If the budget is used up before the last number, returns
-- the place to go on from.
runs.each = function(r, ranges, from, act)
  local at = 0
  for first, last in ranges:gmatch('(%d+)%-?(%d*)') do
    first = tonumber(first)
    last = tonumber(last) or first
    for number = first + math.max(0, from - at), last do
      if r.left <= 0 then return at + number - first end
      r.left = r.left - 1
      act(('%d'):format(number))
    end
    at = at + last - first + 1
  end
end

runs.resolve_dependents = function(r, step, from)
  local handled = runs.state(r, step):sub(1, 1) == 'h'
  return runs.each(r, runs.plan(r, step).dependents, from, function(dependent)
    runs.dependency_ended(r, dependent, handled)
  end)
end

runs.event_came = function(r, event, from)
  local payload = redis.call('HGET', r.key .. ':events', event)
  local waits = redis.call('HGET', r.key .. ':plan', 'event:' .. event) or ''
  return runs.each(r, waits, from, function(step)
    if runs.state(r, step) == 'u' then runs.happened(r, step, payload) end
  end)
end

runs.send_items = function(r, step)
  local of = runs.map(r, step)
  local place = runs.state(r, step):match('^m(%d*)$')
  if of.sent >= of.items or not place then return nil end
  if runs.STOPPED[r.state] or r.state == 'running' and r.paused then
    redis.call('RPUSH', r.key .. ':ready', step)
    return nil
  elseif r.state ~= 'running' then
    return nil
  end
  local plan, rest = runs.plan(r, step), nil
  local limit = tonumber(plan.options:match('"limit": ?(%d+)')) or of.items
  while of.sent < of.items and of.sent - of.ended < limit and (tonumber(place) or 0) < of.items do
    if r.left <= 0 then
      rest = 0
      break
    end
    local one = step .. '.' .. (place == '' and ('%d'):format(of.sent) or place)
    local was = place ~= '' and runs.state(r, one):sub(1, 1)
    if was then place = ('%d'):format(place + 1) end
    if was and not runs.FAILED[was] then
      r.left = r.left - 1
    else
      if was then runs.forget_outcome(r, one, was) end
      runs.send(r, one, plan)
      of.sent = of.sent + 1
    end
  end
  runs.set_map(r, step, of)
  if place ~= '' then runs.set_state(r, step, 'm' .. place) end
  return rest
end

-- Whether an item that was not handled is still to be sent again, because its map is retried.
runs.is_unsent = function(r, map, item)
  local place = runs.state(r, map):match('^m(%d+)$')
  return place and tonumber(item:match('%.(%d+)$')) >= tonumber(place)
end

runs.send_ready = function(r)
  while r.state == 'running' and not r.paused and redis.call('EXISTS', r.key .. ':ready') == 1 do
    if r.left <= 0 then return 0 end
    r.left = r.left - 1
    local step = redis.call('LPOP', r.key .. ':ready')
    local state = runs.state(r, step)
    if state == 'r' then
      runs.begin(r, step)
    elseif state:sub(1, 1) == 'm' then
      runs.plan_work(r, 'x', step)
    end
  end
end

-- Takes back the message of a step, and says whether it could. One that a worker holds, or that waits for its next attempt,
-- is marked if the step is cancelled: it is not attempted again. `entry` is that of its state, or one of the level `returned`.
runs.take_back = function(r, step, entry, cancel, returned)
  local plan, id = runs.plan(r, step), runs.delivery(r, step)
  if plan.queue == '' then
    local at, place = entry:match('^([^,]*),(%d+)$')
    entry, plan = at, runs.plan_with(plan, runs.placement(r, plan), tonumber(place))
  end
  local stream, hooks = r.root .. 'q:' .. (returned or '') .. plan.level .. ':' .. plan.queue, r.root .. 'hooks:' .. id
  local pending = redis.pcall('XPENDING', stream, r.group, entry, entry, 1)
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  if not found or not pending.err and pending[1] then
    if cancel then
      if redis.call('HSETNX', hooks, 'cancel', runs.CANCELLED) == 1 then runs.call_on_cancelled(r, step, plan, id) end
      redis.call('HSET', hooks, 'cancelling', r.root .. 'cancelling')
      redis.call('SADD', r.root .. 'cancelling', r.root .. 'outcome:' .. id)
      redis.call('PEXPIRE', r.root .. 'cancelling', 604800000)
    end
    return false
  end
  local ledger, m = r.root .. 'ledger:' .. plan.queue, fields(found)
  redis.call('XDEL', stream, entry)
  redis.call('HINCRBY', ledger, 'cancelled', 1)
  redis.call('DEL', hooks)
  if cancel then
    record(r.root .. 'outcome:' .. id, runs.CANCELLED, r.ttl_ms, 'cancelled')
    end_for_celery(ledger, m, 'REVOKED', '', 'its run was cancelled')
  end
  return true
end

-- The agent that has a cancelled step, or had begun it, gets a message for its method `on_cancelled`, if it has one.
runs.call_on_cancelled = function(r, step, plan, id)
  local level, text = (redis.call('HGET', r.root .. 'on-cancelled', plan.queue) or ''):match('^([^\n]*)\n(.*)$')
  local template = text and redis.call('HGET', r.key .. ':templates', plan.template)
  local agent, message = (template or ''):match('"agent": ?"([^"]*)", ?"message": ?"([^"]*)"')
  -- In the mailbox of an agent there may be tasks, too.
  if agent ~= plan.queue then return end
  local workflow_id, name, because = unpack(redis.call('HMGET', r.key, 'id', 'name', 'because'))
  local item = step:match('%.(%d+)$')
  local fields = {id = id, message = message, workflow_id = workflow_id, uid = r.uid, workflow = name,
    step = plan.name .. (item and '[' .. item .. ']' or ''), because = because or ''}
  local body = '[[' .. cjson.encode(fields) .. '],{},{}]'
  local values = {ID = 'cancelled-' .. id, BODY = (body:gsub('[\\"]', '\\%0'))}
  put(r.root .. 'q:' .. level .. ':' .. agent, (text:gsub('@(%u+)@', values)))
  count_accepted(r.root .. 'ledger:' .. agent, 1)
  r.left = r.left - 1
end

runs.taken_back = function(r, step, cancel)
  runs.count(r, 'open', -1)
  if cancel then
    runs.cancelled(r, step)
  elseif step:sub(1, 1) == 'u' then
    redis.call('HDEL', r.key .. ':states', step)
    redis.call('RPUSH', r.key .. ':undo', step:sub(2))
  else
    runs.park(r, step)
  end
end

-- During a pause a message that waits for its next attempt is never due. `waits` says where it waits (see retry.lua).
runs.hold = function(r, waits)
  local delayed, member = (waits or ''):match('^([^\n]*)\n[^\n]*\n(.*)$')
  local due = delayed and redis.call('ZSCORE', delayed, member)
  if not due or tonumber(due) == runs.NEVER_MS then return end
  redis.call('ZADD', delayed, ('%.0f'):format(runs.NEVER_MS), member)
  redis.call('RPUSH', r.key .. ':held', due .. '\n' .. waits)
  redis.call('HSET', r.key, 'held', '1')
  r.held = '1'
end

-- The pause is over: what it held is due when it was. Returns whether there is more than one script may do.
runs.let_go = function(r)
  for _ = 1, runs.BUDGET do
    local due, delayed, bell, member =
      (redis.call('LPOP', r.key .. ':held') or ''):match('^([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$')
    if not due then
      redis.call('HDEL', r.key, 'held')
      r.held = nil
      return false
    end
    if redis.call('ZSCORE', delayed, member) then
      redis.call('ZADD', delayed, due, member)
      redis.call('XADD', bell, 'MAXLEN', 4, '*', 'b', '1')
    end
  end
  return true
end

-- Goes through all steps from HSCAN's cursor `from` on. A pause (p) takes back messages; a cancel (c) does so too, and ends waits
-- and maps; after a failure that stops the run (w) waits are parked; after an agent's death (a) what was placed with it is placed
-- again.
runs.recall = function(r, kind, from)
  local cancel = kind == 'c'
  r.left = r.left - 1
  if kind == 'p' and not r.paused or cancel and r.state ~= 'cancelled' or kind == 'w' and not runs.STOPPED[r.state]
      or kind == 'a' and r.state == 'cancelled' then
    return nil
  end
  local found = redis.call('HSCAN', r.key .. ':states', from, 'COUNT', 50)
  local flat = found[2]
  for at = 1, #flat, 2 do
    local step, letter, entry = flat[at], flat[at + 1]:match('^(%l)(.*)$')
    if kind == 'a' then
      if letter == 's' then runs.move(r, step, entry) end
    elseif letter == 'n' then
      runs.leave_unplaced(r, step)
      runs.taken_back(r, step, cancel)
    elseif letter == 's' and kind ~= 'w' then
      r.left = r.left - 1
      if runs.take_back(r, step, entry, cancel) then
        runs.taken_back(r, step, cancel)
      elseif not cancel then
        runs.hold(r, redis.call('HGET', r.root .. 'hooks:' .. runs.delivery(r, step), 'waits'))
      end
    elseif letter == 'u' and kind ~= 'p' then
      redis.call('ZREM', r.root .. 'timers', runs.timer(r, step))
      runs.count(r, 'open', -1)
      if cancel then runs.cancelled(r, step) else runs.park(r, step) end
    elseif cancel and letter == 'r' and step:find('.', 1, true) then
      runs.cancelled(r, step)
    elseif cancel and letter == 'm' then
      -- Read again: an item may have ended it just now.
      local of = runs.map(r, step)
      if runs.state(r, step):sub(1, 1) == 'm' and of.ended == of.sent then runs.cancelled(r, step) end
    elseif cancel and (letter == 'x' or letter == 'y') and runs.state(r, step):sub(1, 1) == letter then
      runs.cancelled(r, step)
    end
  end
  if found[1] ~= '0' then return found[1] end
end

-- An item of a map has ended; `again` says that it was handled after a replay.
runs.item_ended = function(r, map, handled, again)
  local of = runs.map(r, map)
  if again and of.unhandled > 0 then
    of.unhandled = of.unhandled - 1
  else
    of.ended, of.unhandled = of.ended + 1, of.unhandled + (handled and 0 or 1)
  end
  runs.set_map(r, map, of)
  if r.state == 'cancelled' and not again and (of.unhandled > 0 or of.sent < of.items) then
    if of.ended == of.sent then runs.cancelled(r, map) end
  elseif of.ended == of.items and (not again or of.unhandled == 0) then
    if of.unhandled == 0 then
      runs.end_unsent(r, map, 'handled')
    else
      local why = ('%d of %d items were not handled'):format(of.unhandled, of.items)
      runs.end_unsent(r, map, 'dead', 'items failed', why)
    end
  elseif of.sent < of.items and not again then
    runs.plan_work(r, 'x', map)
  end
end

-- A step that was not handled is handled after all, because its dead letter was replayed.
runs.revived = function(r, step, was)
  runs.set_state(r, step, 'h')
  if step:sub(1, 1) == 'u' then
    runs.count(r, 'undo_failures', -1)
    if r.state == 'compensation failed' and runs.counted(r, 'undo_failures') == 0 then
      runs.set_run(r, 'compensated')
      redis.call('LSET', r.key .. ':ended', 0, 'compensated')
    end
    return
  end
  runs.count(r, runs.NAMES[was], -1)
  runs.count(r, 'handled', 1)
  runs.remember_undo(r, step)
  local map = step:match('^(%d+)%.')
  if map and runs.is_unsent(r, map, step) then
    local of = runs.map(r, map)
    of.sent = of.sent + 1
    runs.set_map(r, map, of)
    runs.item_ended(r, map, true)
    return
  elseif map then
    runs.item_ended(r, map, true, true)
    return
  end
  local caller = runs.caller_of(runs.plan(r, step))
  if caller then return runs.call_revived(r, caller) end
  -- What depends on a guarded step went on without it.
  if runs.plan(r, step).guarded then return end
  runs.count(r, 'failures', -1)
  if r.state ~= 'running' and not runs.STOPPED[r.state] then return end
  runs.plan_work(r, 'd', step)
  if runs.counted(r, 'failures') == 0 then
    runs.reopen(r, 'running')
    runs.plan_work(r, 'r', '')
  end
end

-- Has a step that was not handled begin again, of a map its items that were not. Returns what that came to.
runs.retry = function(r, step)
  local was = runs.state(r, step):sub(1, 1)
  if not runs.FAILED[was] then return 'not failed' end
  if r.state ~= 'running' and not runs.STOPPED[r.state] then return runs.NO_RETRY[r.state] or 'run compensated' end
  if runs.caller_of(runs.plan(r, step)) then return runs.retry_call(r, step, was) and 'done' or 'others began' end
  if runs.plan(r, step).guarded then return 'others began' end
  runs.count(r, 'failures', -1)
  if r.state ~= 'running' then
    runs.reopen(r, 'running')
    runs.plan_work(r, 'r', '')
  end
  runs.forget_outcome(r, step, was)
  local of = runs.map(r, step)
  if of and of.unhandled > 0 then
    -- As if the items that were not handled had not been sent.
    of.ended, of.unhandled = of.ended - of.unhandled, 0
    of.sent = of.ended
    runs.set_map(r, step, of)
    runs.set_state(r, step, 'm0')
    runs.plan_work(r, 'x', step)
  else
    redis.call('HDEL', r.key .. ':maps', step)
    runs.release(r, step)
  end
  return 'done'
end

-- A step has not ended after all.
runs.forget_end = function(r, step, was)
  runs.count(r, runs.NAMES[was], -1)
  redis.call('HDEL', r.key .. ':states', step)
  redis.call('HDEL', r.key .. ':outcomes', step)
end

-- Its message is sent again with the same id, so that nothing may be left of what it came to.
runs.forget_outcome = function(r, step, was)
  runs.forget_end(r, step, was)
  runs.forget_delivery(r, step)
end

-- A step has been handled. If its run has been compensated already, its compensation is still owed.
runs.remember_undo = function(r, step)
  local plan = runs.plan(r, step)
  if not plan.undo or plan.kind == 'm' and not step:find('.', 1, true) then return end
  redis.call('RPUSH', r.key .. ':undo', step)
  if r.state == 'compensated' or r.state == 'compensation failed'
      or r.state == 'cancelled' and r.over and redis.call('HGET', r.key, 'compensate') == '1' then
    runs.reopen(r, 'compensating')
  end
end

-- A run goes on, even if it has ended.
runs.reopen = function(r, state)
  runs.set_run(r, state)
  if not r.over then return end
  r.over = nil
  redis.call('PERSIST', r.key)
  for _, part in ipairs(runs.PARTS) do redis.call('PERSIST', r.key .. part) end
  redis.call('DEL', r.key .. ':ended')
  redis.call('HDEL', r.key, 'ended_ms')
  runs.emit(r, 'run_revived', 1)
end

-- The message of a step has its outcome: `ended` is `handled`, `dead`, `expired` or `cancelled`, and `outcome` its JSON.
runs.step_ended = function(r, step, ended, outcome)
  local was = runs.state(r, step):sub(1, 1)
  if runs.has_seen(r, step, was) then
    runs.late_outcome(r, step, ended, outcome)
    return
  end
  redis.call('HSET', r.key .. ':outcomes', step, outcome)
  if was == 's' or was == 'n' then runs.count(r, 'open', -1) end
  if was == 'n' then runs.leave_unplaced(r, step) end
  runs.ended(r, step, ended)
end

-- A step has ended, with one of these outcomes.
runs.ended = function(r, step, outcome)
  local was = runs.state(r, step):sub(1, 1)
  if runs.NAMES[was] then
    if outcome == 'handled' and was ~= 'h' then runs.revived(r, step, was) end
    return
  end
  runs.set_state(r, step, runs.LETTERS[outcome])
  local handled = outcome == 'handled'
  if step:sub(1, 1) == 'u' then
    if not handled then runs.count(r, 'undo_failures', 1) end
    return
  end
  runs.count(r, outcome, 1)
  if handled and was ~= 'x' then runs.remember_undo(r, step) end
  local map, plan = step:match('^(%d+)%.'), runs.plan(r, step)
  if not handled and not map and plan.options ~= '' then
    runs.fail_expansion(r, plan)
    if outcome == 'dead' then runs.call_errbacks(r, step, plan) end
  end
  if map then
    runs.item_ended(r, map, handled)
  elseif plan.kind == 'j' and plan.options:find('"of"', 1, true) then
    runs.expansion_ended(r, cjson.decode(plan.options).of)
  elseif runs.caller_of(plan) then
    runs.call_ended(r, runs.caller_of(plan))
  elseif handled or plan.guarded then
    if plan.dependents ~= '' then runs.plan_work(r, 'd', step) end
  else
    runs.failed(r)
  end
end

-- What is done of each kind of work: dependents of a step, items of a map, parked steps, waits for an event, unplaced steps; and
-- through all steps, because of a pause, a cancel, a failure or an agent's death. A function returns where to go on if the script has done enough.
runs.DO = {
  d = runs.resolve_dependents, x = runs.send_items, r = runs.send_ready, e = runs.event_came,
  p = function(r, _, from) return runs.recall(r, 'p', from) end,
  c = function(r, _, from) return runs.recall(r, 'c', from) end,
  w = function(r, _, from) return runs.recall(r, 'w', from) end,
  a = function(r, _, from) return runs.recall(r, 'a', from) end,
  n = function(r, _, count) return runs.place_unplaced(r, '', count) end,
}

-- Kinds of work whose position is a place; of the others it is a cursor.
runs.BY_PLACE = {d = true, e = true, n = true}

-- Work is done in the order in which it was planned; the order of sends is that of core/run.py.
runs.work_off = function(r)
  local agenda = r.key .. ':agenda'
  local has_agenda, at = redis.call('EXISTS', agenda) == 1, 1
  while r.left > 0 do
    local item = has_agenda and redis.call('LPOP', agenda)
    if not item then
      has_agenda, item = false, r.work[at]
      at = at + 1
    end
    if not item then break end
    local kind, step, from = item:match('^(%l):([^:]*):(%d+)$')
    local rest = runs.DO[kind](r, step, runs.BY_PLACE[kind] and tonumber(from) or from)
    if rest then
      rest = kind .. ':' .. step .. ':' .. rest
      if has_agenda then
        redis.call('LPUSH', agenda, rest)
      else
        at = at - 1
        r.work[at] = rest
      end
    end
  end
  for i = at, #r.work do redis.call('RPUSH', agenda, r.work[i]) end
  r.work = {}
end

-- Emits an event of the run, and changes its workflow's number of open runs by `by`.
runs.emit = function(r, kind, by, ...)
  local id, name = unpack(redis.call('HMGET', r.key, 'id', 'name'))
  local open = r.root .. 'runs:open'
  if by ~= 0 and redis.call('HINCRBY', open, name, by) <= 0 then redis.call('HDEL', open, name) end
  emit_event(kind, r.uid, id, name, ...)
end

-- Ends the run in a state, and has it forgotten in time.
runs.finish = function(r, state)
  local now = now_ms()
  local started_ms, keep_ms, limit_key, placed =
    unpack(redis.call('HMGET', r.key, 'started_ms', 'keep_ms', 'limit_key', 'placed'))
  runs.set_run(r, state)
  -- A pause ends with the run: what a replay releases later would wait for ever.
  r.over, r.paused = now, false
  redis.call('HSET', r.key, 'ended_ms', now)
  redis.call('HDEL', r.key, 'paused', 'paused_with')
  redis.call('RPUSH', r.key .. ':ended', state)
  redis.call('ZREM', r.root .. 'timers', runs.timer(r, 'deadline'))
  redis.call('PEXPIRE', r.key, keep_ms)
  runs.emit(r, 'run_ended', -1, state, ('%d'):format(math.max(0, now - started_ms)))
  if placed then runs.forget_placed(r, placed) end
  if limit_key then runs.leave_limit(r, limit_key) end
end

-- Cancels the run. A pause ends, so that nothing holds up compensations.
runs.cancel = function(r, compensates)
  runs.set_run(r, 'cancelled')
  runs.emit(r, 'run_cancelled', 0)
  r.paused = false
  redis.call('HDEL', r.key, 'paused', 'paused_with')
  redis.call('HSET', r.key, 'compensate', compensates and '1' or '0')
  redis.call('ZREM', r.root .. 'timers', runs.timer(r, 'deadline'))
  runs.plan_work(r, 'c', '')
end

-- A run that starts is one of at most some under a key. Returns whether it begins now; if not it is queued, or cancelled.
runs.enter_limit = function(r)
  local limit, key, strategy = unpack(redis.call('HMGET', r.key, 'limit', 'limit_key', 'limit_strategy'))
  if not limit then return true end
  local running = r.root .. 'runs:limit:' .. key
  while redis.call('ZCARD', running) >= tonumber(limit) do
    local oldest = redis.call('ZRANGE', running, 0, 0)[1]
    local other = runs.open(r.root .. 'run:' .. oldest)
    if not other or other.over then
      redis.call('ZREM', running, oldest)
    elseif strategy == 'queue' then
      runs.set_run(r, 'queued')
      redis.call('RPUSH', r.root .. 'runs:queued:' .. key, r.uid)
      return false
    elseif strategy == 'cancel_newest' then
      redis.call('HSET', r.key, 'because', 'limit reached')
      runs.cancel(r, false)
      return false
    else
      redis.call('ZREM', running, oldest)
      redis.call('HSET', other.key, 'because', 'a newer run began')
      other.left = runs.OTHERS
      runs.cancel(other, other.on_failure == 'compensate')
      runs.close(other)
    end
  end
  redis.call('ZADD', running, now_ms(), r.uid)
  return true
end

-- The run has ended: those that are queued under its key begin. After some in a row, the sweep goes on with the next one.
runs.leave_limit = function(r, key)
  local running, queued = r.root .. 'runs:limit:' .. key, r.root .. 'runs:queued:' .. key
  if redis.call('ZREM', running, r.uid) == 0 then
    redis.call('LREM', queued, 0, r.uid)
    return
  end
  local limit = tonumber(redis.call('HGET', r.key, 'limit'))
  while redis.call('ZCARD', running) < limit do
    local uid = redis.call('LPOP', queued)
    if not uid then return end
    local other = runs.open(r.root .. 'run:' .. uid)
    if other and other.state == 'queued' then
      redis.call('ZADD', running, now_ms(), uid)
      runs.set_run(other, 'running')
      runs.plan_work(other, 'd', 'start')
      other.depth = (r.depth or 0) + 1
      other.left = other.depth > runs.DEPTH and 0 or r.left
      runs.close(other)
      r.left = math.min(r.left, other.left)
    end
  end
end

-- Nothing of the run is out and nothing is planned: it ends, or its next compensation is sent. Returns whether there is
-- more to do.
runs.end_or_undo = function(r)
  local undo = r.key .. ':undo'
  if r.state == 'running' then
    if redis.call('EXISTS', r.key .. ':ready') == 1 then return false end
    if runs.counted(r, 'failures') > 0 then
      runs.set_run(r, 'stopping')
      return true
    end
    runs.finish(r, 'completed')
  elseif r.state == 'stopping' or r.state == 'cancelled' then
    local wanted = r.on_failure == 'compensate'
    if r.state == 'cancelled' then wanted = redis.call('HGET', r.key, 'compensate') == '1' end
    if wanted and redis.call('EXISTS', undo) == 1 then
      redis.call('HSETNX', r.key, 'because', r.state == 'cancelled' and 'cancelled' or 'failed')
      runs.set_run(r, 'compensating')
      return true
    end
    if not r.over then runs.finish(r, r.state == 'cancelled' and 'cancelled' or 'failed') end
  elseif r.state == 'compensating' then
    if r.paused then return false end
    local step = redis.call('RPOP', undo)
    if step then
      runs.send(r, 'u' .. step, runs.plan(r, 'u' .. step))
      return true
    end
    runs.finish(r, runs.counted(r, 'undo_failures') > 0 and 'compensation failed' or 'compensated')
  end
  return false
end

-- Does what is planned, as far as one script may, and writes the run's counts. Returns 1 if work is left, else 0.
runs.close = function(r)
  -- What it is to begin with waits until it is its turn.
  if r.state == 'queued' then return 0 end
  local left
  repeat
    runs.work_off(r)
    for name, by in pairs(r.counts) do
      if by ~= 0 then redis.call('HINCRBY', r.key, name, by) end
    end
    r.counts = {}
    left = redis.call('EXISTS', r.key .. ':agenda')
  until left == 1 or runs.counted(r, 'open') > 0 or not runs.end_or_undo(r)
  if r.held and not r.paused and runs.let_go(r) then left = 1 end
  if left == 1 then redis.call('SADD', r.root .. 'runs:busy', r.uid) end
  if r.over then
    -- What an ended run still writes, after a replay, is to go with it.
    local keep_ms = redis.call('PTTL', r.key)
    for _, part in ipairs(runs.PARTS) do redis.call('PEXPIRE', r.key .. part, keep_ms) end
  end
  return left
end

-- Functions that few runs need are made when one of them is asked for (see run_placement.lua).
setmetatable(runs, {__index = function(_, name)
  setmetatable(runs, nil)
  runs.define_placement()
  return runs[name]
end})
