--- @include "mailbox_entry"
--- @include "runs"
-- Runs of workflows: what each end of a step, and the sends that it releases, need; part of runs.lua.

-- Steps that one script deals with, and the bytes of a message that count as one more.
runs.BUDGET = 120
-- Steps of a run that it deals with in passing, and runs that it begins one within the other.
runs.OTHERS = 50
runs.DEPTH = 20
runs.BYTES = 5000
-- The longest outcomes, taken together, that a message has with it.
runs.INPUT_BYTES = 1000
runs.CANCELLED = '{"outcome":"cancelled","by":"its run was cancelled"}'
runs.LETTERS = {handled = 'h', dead = 'd', expired = 'e', cancelled = 'c'}
runs.NAMES = {h = 'handled', d = 'dead', e = 'expired', c = 'cancelled', k = 'skipped'}
-- The keys beside a run's. Few runs have the rare ones.
runs.RARE_PARTS = {':maps', ':agenda', ':ready', ':undo', ':events', ':postponed', ':calls', ':unplaced'}
runs.PARTS = {':plan', ':templates', ':states', ':outcomes', ':ended', unpack(runs.RARE_PARTS)}
runs.FAILED = {d = true, e = true, c = true}
-- Why a step is dead that failed by what is deployed, not by what it did: that compensates nothing. Its state is then 'd1'.
runs.DEPLOYMENT = {deployment = true, ['unknown task'] = true, ['unknown message'] = true, ['not supervised'] = true, malformed = true}
-- A failed step has stopped the run: what would begin is kept until a replayed letter revives it.
runs.STOPPED = {stopping = true, failed = true}
-- Why no step of a run in such a state is retried; in any other it is, or was, compensated.
runs.NO_RETRY = {cancelled = 'run cancelled', completed = 'run completed'}
runs.PLAN = '^(%a)\n' .. ('([^\n]*)\n'):rep(13) .. '([^\n]*)$'
-- How long after a step's death the replay of its dead letter can revive the run.
runs.DEAD_MS = 2592000000
-- When a message is due that a pause postpones: the year 9999.
runs.NEVER_MS = 253402300800000

-- A run as one script works on it; nil if Redis does not have it, or its plan is still being written. `states` and `counted` are what was
-- read, `counts` and `work` what runs.close is to write, `left` the rest of the script's budget.
runs.open = function(key)
  local state, paused, on_failure, nonce, root, group, ttl_ms, id, ended_ms, postponed, open, failures =
    unpack(redis.call('HMGET', key, 'state', 'paused', 'on_failure', 'nonce', 'root', 'group', 'outcome_ttl_ms', 'id_json', 'ended_ms',
      'postponed', 'open', 'failures'))
  if not state or state == 'writing' then return nil end
  return {key = key, state = state, paused = paused == '1', on_failure = on_failure, nonce = nonce, root = root, group = group,
    ttl_ms = ttl_ms, id = id, over = ended_ms, postponed = postponed, uid = key:sub(#root + 5), counts = {}, work = {}, plans = {}, texts = {},
    states = {}, counted = {open = tonumber(open or 0), failures = tonumber(failures or 0)}, left = runs.BUDGET}
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

-- A step's state. It is read once: nothing else writes it while the script runs.
runs.state = function(r, step)
  local state = r.states[step]
  if not state then
    state = redis.call('HGET', r.key .. ':states', step) or ''
    r.states[step] = state
  end
  return state
end

runs.set_state = function(r, step, state)
  r.states[step] = state
  redis.call('HSET', r.key .. ':states', step, state)
end

-- A count as it is now: what Redis has, and what this script has yet to add.
runs.count_of = function(r, name)
  local written = r.counted[name]
  if not written then
    written = tonumber(redis.call('HGET', r.key, name) or 0)
    r.counted[name] = written
  end
  return written + (r.counts[name] or 0)
end

runs.plan_work = function(r, kind, step, at)
  r.work[#r.work + 1] = kind .. ':' .. step .. ':' .. (at or 0)
end

-- The id of a step's delivery.
runs.delivery = function(r, step)
  return r.uid .. '.' .. step
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

-- The message of a step has its outcome: `ended` is `handled`, `dead`, `expired` or `cancelled`, and `outcome` its JSON.
runs.step_ended = function(r, step, ended, outcome)
  local was = runs.state(r, step):sub(1, 1)
  if runs.FAILED[was] and runs.has_seen(r, step, was) then
    runs.late_outcome(r, step, ended, outcome)
    return
  end
  redis.call('HSET', r.key .. ':outcomes', step, outcome)
  if was == 's' or was == 'n' then runs.count(r, 'open', -1) end
  if was == 'n' then runs.leave_unplaced(r, step) end
  runs.ended(r, step, ended, ended == 'dead' and runs.DEPLOYMENT[cjson.decode(outcome).reason])
end

-- The workflow function that has made a call.
runs.caller_of = function(plan)
  return plan.options ~= '' and plan.options:match('"caller": ?"([%d.]+)"') or nil
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

-- A step has ended, with one of these outcomes; if it is dead, `by_deployment` or not.
runs.ended = function(r, step, outcome, by_deployment)
  local was = runs.state(r, step):sub(1, 1)
  if runs.NAMES[was] then
    if was ~= 'h' then runs.ended_again(r, step, was, outcome, by_deployment) end
    return
  end
  runs.set_state(r, step, runs.LETTERS[outcome])
  local handled = outcome == 'handled'
  if step:sub(1, 1) == 'u' then
    if not handled then runs.count(r, 'undo_failures', 1) end
    return
  end
  if by_deployment and not runs.plan(r, step).guarded then
    runs.set_state(r, step, 'd1')
    runs.count(r, 'deploy_failures', 1)
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

-- Which function does each kind of work: dependents of a step, items of a map, parked steps, waits for an event, unplaced steps; and
-- through all steps, because of a pause, a cancel, a failure or an agent's death. It returns where to go on if the script has done enough.
runs.DO = {d = 'resolve_dependents', e = 'event_came', x = 'send_items', r = 'send_ready', n = 'place_unplaced', p = 'recall',
  c = 'recall', w = 'recall', a = 'recall'}

-- Kinds of work whose position is a place; of the others it is a cursor.
runs.BY_PLACE = {d = true, e = true, n = true}

-- Work is done in the order in which it was planned; the order of sends is that of core/workflows/run.py.
-- Returns 1 if some of it is left, else 0.
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
    local rest = runs[runs.DO[kind]](r, step, runs.BY_PLACE[kind] and tonumber(from) or from, kind)
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
  for i = at, #r.work do
    redis.call('RPUSH', agenda, r.work[i])
    has_agenda = true
  end
  r.work = {}
  return has_agenda and redis.call('EXISTS', agenda) or 0
end

-- Does what is planned, as far as one script may, and writes the run's counts. Returns 1 if work is left, else 0.
runs.close = function(r)
  -- Its first steps wait until it is its turn.
  if r.state == 'queued' then return 0 end
  local left
  repeat
    left = runs.work_off(r)
    for name, by in pairs(r.counts) do
      if by ~= 0 then r.counted[name] = redis.call('HINCRBY', r.key, name, by) end
    end
    r.counts = {}
  until left == 1 or runs.count_of(r, 'open') > 0 or not runs.end_or_undo(r)
  if r.postponed and not r.paused and runs.let_go(r) then left = 1 end
  if left == 1 then redis.call('SADD', r.root .. 'runs:busy', r.uid) end
  if r.over then
    -- Keys that an ended run still writes, after a replay, expire with it.
    local keep_ms, rare = redis.call('PTTL', r.key), {}
    for i, part in ipairs(runs.RARE_PARTS) do rare[i] = r.key .. part end
    local last = redis.call('EXISTS', unpack(rare)) == 0 and #runs.PARTS - #rare or #runs.PARTS
    for i = 1, last do redis.call('PEXPIRE', r.key .. runs.PARTS[i], keep_ms) end
  end
  return left
end
--- @extend runs "run_ends"
--- @extend runs "run_parts"
