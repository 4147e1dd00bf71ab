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
--   :agenda     list: work that no script has done yet
--   :ready      list: steps that begin once the run goes on
--   :undo       list: handled steps with a compensation, in the order in which they ended
--   :ended      list of one: the state in which the run ended, so that BLMOVE can wait for it
-- A step is its number; an item of a map is MAP.ITEM; the compensation of a step is 'u' .. the step.
-- A state is a letter and its values: w waits (dependencies ended, of these not handled); r ready; s sent (its entry);
-- u waits for an event or a time; m its items are out; h handled; d dead; e expired; c cancelled; k skipped.
local runs = {
  -- Sends and resolved dependencies of one script, and the bytes of a message that count as one more.
  BUDGET = 200,
  BYTES = 5000,
  LETTERS = {handled = 'h', dead = 'd', expired = 'e', cancelled = 'c'},
  NAMES = {h = 'handled', d = 'dead', e = 'expired', c = 'cancelled', k = 'skipped'},
  PARTS = {':plan', ':templates', ':states', ':outcomes', ':maps', ':agenda', ':ready', ':undo', ':ended'},
  PLAN = '^(%a)\n' .. ('([^\n]*)\n'):rep(12) .. '([^\n]*)$',
  -- How long a dead step's letter can revive its run.
  DEAD_MS = 2592000000,
}

runs.open = function(key)
  local f = redis.call('HMGET', key, 'state', 'paused', 'on_failure', 'nonce', 'root', 'group', 'outcome_ttl_ms',
    'id_json')
  if not f[1] or f[1] == 'writing' then return nil end
  return {key = key, state = f[1], paused = f[2] == '1', on_failure = f[3], nonce = f[4], root = f[5], group = f[6],
    ttl_ms = f[7], id = f[8], uid = key:sub(#f[5] + 5), counts = {}, work = {}, plans = {}, texts = {}, left = runs.BUDGET}
end

runs.plan = function(r, step)
  local number = step:match('^u?%d+') or step
  local plan = r.plans[number]
  if not plan then
    local kind, name, template, queue, level, dependencies, when, guarded, undo, dependents, options, body, args, kwargs =
      redis.call('HGET', r.key .. ':plan', number):match(runs.PLAN)
    plan = {kind = kind, name = name, template = template, queue = queue, level = level, when = when,
      dependencies = tonumber(dependencies), guarded = guarded == '1', undo = undo == '1', dependents = dependents,
      options = options, body = body, args = args, kwargs = kwargs}
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

runs.plan_work = function(r, kind, step, from)
  r.work[#r.work + 1] = kind .. ':' .. step .. ':' .. (from or 0)
end

-- Its delivery's id.
runs.delivery = function(r, step)
  return r.uid .. '.' .. step
end

runs.park = function(r, step)
  runs.set_state(r, step, 'r')
  redis.call('RPUSH', r.key .. ':ready', step)
end

runs.send = function(r, step, plan)
  local id, template = runs.delivery(r, step), r.texts[plan.template]
  if not template then
    template = redis.call('HGET', r.key .. ':templates', plan.template)
    r.texts[plan.template] = template
  end
  local values = {id = id, uid = r.uid, run = r.id, step = step, name = plan.name, body = plan.body, args = plan.args,
    kwargs = plan.kwargs}
  local m = template:gsub('@' .. r.nonce .. ':(%l+)@', values)
  local entry = put(r.root .. 'q:' .. plan.level .. ':' .. plan.queue, m)
  redis.call('HINCRBY', r.root .. 'ledger:' .. plan.queue, 'accepted', 1)
  redis.call('HSET', r.root .. 'hooks:' .. id, 'run', r.key, 'step', step)
  runs.set_state(r, step, 's' .. entry)
  runs.count(r, 'open', 1)
  r.left = r.left - 1 - math.floor(#m / runs.BYTES)
end

-- A step ends that was no message. `error` is why it is dead.
runs.end_at_once = function(r, step, outcome, error)
  runs.count(r, 'open', 1)
  local json = '{"outcome":"handled","result":null,"attempts":0}'
  if error then
    json = cjson.encode({outcome = 'dead', reason = 'validation', error = error, attempts = 0})
  end
  redis.call('HSET', r.key .. ':outcomes', step, json)
  runs.ended(r, step, outcome)
end

-- How many items a map has: of a list in the result of a step, or of another map; nil if there is no list.
runs.items = function(r, options)
  local over, path = options.over, options.path
  if runs.plan(r, over).kind == 'm' and #path == 0 then
    local items = (redis.call('HGET', r.key .. ':maps', over) or '0,0,0,0'):match('^%d+,%d+,(%d+)')
    return tonumber(items)
  end
  local value = (read_json(redis.call('HGET', r.key .. ':outcomes', over)) or {}).result
  for _, name in ipairs(path) do
    if type(value) ~= 'table' then return nil end
    if type(name) == 'number' then name = name + 1 end
    value = value[name]
  end
  if type(value) ~= 'table' or #value == 0 and next(value) ~= nil then return nil end
  return #value
end

runs.begin_map = function(r, step, plan)
  local options = cjson.decode(plan.options)
  local items = runs.items(r, options)
  if not items then
    runs.end_at_once(r, step, 'dead', 'map over what is no list: ' .. options.says)
    return
  end
  redis.call('HSET', r.key .. ':maps', step, '0,0,' .. items .. ',0')
  if items == 0 then
    runs.end_at_once(r, step, 'handled')
    return
  end
  runs.set_state(r, step, 'm')
  runs.count(r, 'open', 1)
  runs.plan_work(r, 'x', step)
end

runs.begin_wait = function(r, step, plan)
  local options = cjson.decode(plan.options)
  if options.event and redis.call('HEXISTS', r.key .. ':events', options.event) == 1 then
    runs.count(r, 'open', 1)
    runs.happened(r, step, redis.call('HGET', r.key .. ':events', options.event))
    return
  end
  runs.set_state(r, step, 'u')
  runs.count(r, 'open', 1)
  if options.ms then
    redis.call('ZADD', r.root .. 'timers', now_ms() + options.ms, 'run:' .. r.uid .. ':' .. step)
  end
end

-- What a step waited for has happened; `payload` is JSON.
runs.happened = function(r, step, payload)
  redis.call('ZREM', r.root .. 'timers', 'run:' .. r.uid .. ':' .. step)
  redis.call('HSET', r.key .. ':outcomes', step, '{"outcome":"handled","attempts":0,"result":' .. payload .. '}')
  runs.ended(r, step, 'handled')
end

runs.begin = function(r, step)
  local plan = runs.plan(r, step)
  if plan.kind == 't' or step:find('.', 1, true) then
    runs.send(r, step, plan)
  elseif plan.kind == 'j' then
    runs.end_at_once(r, step, 'handled')
  elseif plan.kind == 'm' then
    runs.begin_map(r, step, plan)
  else
    runs.begin_wait(r, step, plan)
  end
end

runs.release = function(r, step)
  if r.state == 'stopping' or r.state == 'running' and r.paused then
    runs.park(r, step)
  elseif r.state == 'running' then
    runs.begin(r, step)
  end
end

-- One dependency of a step has ended. When all have, it begins or is skipped.
runs.dependency_ended = function(r, step, handled)
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
    if when == 'any_handled' and not plan.guarded then
      runs.failed(r)
    else
      runs.plan_work(r, 'd', step)
    end
  end
end

-- A step is dead: its errbacks begin, unless another step has called them.
runs.call_errbacks = function(r, plan)
  for first, last in (plan.options:match('"errbacks": ?"([%d,-]+)"') or ''):gmatch('(%d+)%-?(%d*)') do
    first = tonumber(first)
    for number = first, tonumber(last) or first do
      local errback = ('%d'):format(number)
      if runs.state(r, errback) == '' then runs.release(r, errback) end
    end
  end
end

-- A step has failed, and no other one is there for that.
runs.failed = function(r)
  runs.count(r, 'failures', 1)
  if r.state == 'running' and r.on_failure ~= 'continue' then runs.set_run(r, 'stopping') end
end

-- The work of one kind on a step, from a position; what is left is planned again.
runs.resolve_dependents = function(r, step, from)
  local handled, at = runs.state(r, step):sub(1, 1) == 'h', 0
  for first, last in runs.plan(r, step).dependents:gmatch('(%d+)%-?(%d*)') do
    first = tonumber(first)
    last = tonumber(last) or first
    for dependent = first + math.max(0, from - at), last do
      if r.left <= 0 then
        runs.plan_work(r, 'd', step, at + dependent - first)
        return
      end
      r.left = r.left - 1
      runs.dependency_ended(r, ('%d'):format(dependent), handled)
    end
    at = at + last - first + 1
  end
end

runs.send_items = function(r, step)
  if r.state ~= 'running' or r.paused then return end
  local plan = runs.plan(r, step)
  local ended, unhandled, items, sent = redis.call('HGET', r.key .. ':maps', step):match('^(%d+),(%d+),(%d+),(%d+)$')
  ended, items, sent = tonumber(ended), tonumber(items), tonumber(sent)
  local limit = tonumber(plan.options:match('"limit": ?(%d+)')) or items
  while sent < items and sent - ended < limit do
    if r.left <= 0 then
      runs.plan_work(r, 'x', step)
      break
    end
    runs.send(r, step .. '.' .. ('%d'):format(sent), plan)
    sent = sent + 1
  end
  redis.call('HSET', r.key .. ':maps', step, ('%d,%d,%d,%d'):format(ended, unhandled, items, sent))
end

runs.send_ready = function(r)
  while r.state == 'running' and not r.paused do
    if r.left <= 0 then
      runs.plan_work(r, 'r', '')
      return
    end
    local step = redis.call('LPOP', r.key .. ':ready')
    if not step then return end
    if runs.state(r, step) == 'r' then runs.begin(r, step) end
  end
end

-- Takes back the message of a step. One that a worker holds, or that waits for its next attempt, is marked if the step is
-- cancelled: it is not attempted again.
runs.take_back = function(r, step, entry, cancel)
  local plan, id = runs.plan(r, step), runs.delivery(r, step)
  local stream, hooks = r.root .. 'q:' .. plan.level .. ':' .. plan.queue, r.root .. 'hooks:' .. id
  local outcome = '{"outcome":"cancelled","by":"its run was cancelled"}'
  local pending = redis.pcall('XPENDING', stream, r.group, entry, entry, 1)
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  if not found or not pending.err and pending[1] then
    if cancel then
      redis.call('HSET', hooks, 'cancel', outcome, 'cancelling', r.root .. 'cancelling')
      redis.call('SADD', r.root .. 'cancelling', r.root .. 'outcome:' .. id)
      redis.call('PEXPIRE', r.root .. 'cancelling', 604800000)
    end
    return
  end
  local ledger, m = r.root .. 'ledger:' .. plan.queue, fields(found)
  redis.call('XDEL', stream, entry)
  redis.call('HINCRBY', ledger, 'cancelled', 1)
  redis.call('DEL', hooks)
  runs.count(r, 'open', -1)
  if cancel then
    record(r.root .. 'outcome:' .. id, outcome, r.ttl_ms, 'cancelled')
    redis.call('HSET', r.key .. ':outcomes', step, outcome)
    runs.set_state(r, step, 'c')
    runs.count(r, 'cancelled', 1)
    end_for_celery(ledger, m, 'REVOKED', '', 'its run was cancelled')
  else
    runs.park(r, step)
  end
end

-- Goes through the steps that are out, from HSCAN's cursor.
runs.recall = function(r, cancel, cursor)
  local found = redis.call('HSCAN', r.key .. ':states', cursor, 'COUNT', 50)
  local flat = found[2]
  for at = 1, #flat, 2 do
    local letter, entry = flat[at + 1]:match('^(%l)(.*)$')
    if letter == 's' then
      runs.take_back(r, flat[at], entry, cancel)
      r.left = r.left - 1
    elseif letter == 'u' and cancel then
      redis.call('ZREM', r.root .. 'timers', 'run:' .. r.uid .. ':' .. flat[at])
      runs.set_state(r, flat[at], 'c')
      runs.count(r, 'cancelled', 1)
      runs.count(r, 'open', -1)
    elseif letter == 'm' and cancel then
      -- It ends with its items that are out, and sends no others.
      local ended, unhandled, _, sent = redis.call('HGET', r.key .. ':maps', flat[at]):match('^(%d+),(%d+),(%d+),(%d+)$')
      redis.call('HSET', r.key .. ':maps', flat[at], ended .. ',' .. unhandled .. ',' .. sent .. ',' .. sent)
    end
  end
  if found[1] ~= '0' then runs.plan_work(r, cancel and 'c' or 'p', '', found[1]) end
end

-- An item of a map has ended; `again` is by how much the number of unhandled items differs after a replay.
runs.item_ended = function(r, map, handled, again)
  local ended, unhandled, items, sent = redis.call('HGET', r.key .. ':maps', map):match('^(%d+),(%d+),(%d+),(%d+)$')
  ended, unhandled, items, sent = tonumber(ended), tonumber(unhandled), tonumber(items), tonumber(sent)
  if again then
    unhandled = unhandled - 1
  else
    ended, unhandled = ended + 1, unhandled + (handled and 0 or 1)
  end
  redis.call('HSET', r.key .. ':maps', map, ('%d,%d,%d,%d'):format(ended, unhandled, items, sent))
  if ended == items and (not again or unhandled == 0) then
    local json = '{"outcome":"handled","result":null,"attempts":0}'
    if unhandled > 0 then
      json = cjson.encode({outcome = 'dead', reason = 'items failed', attempts = 0,
        error = unhandled .. ' of ' .. items .. ' items were not handled'})
    end
    redis.call('HSET', r.key .. ':outcomes', map, json)
    runs.ended(r, map, unhandled == 0 and 'handled' or 'dead')
  elseif sent < items then
    runs.plan_work(r, 'x', map)
  end
end

-- A step that was not handled is handled after all, because its dead letter was replayed.
runs.revived = function(r, step, was)
  runs.set_state(r, step, 'h')
  runs.count(r, runs.NAMES[was], -1)
  runs.count(r, 'handled', 1)
  local map = step:match('^(%d+)%.')
  if map then
    runs.item_ended(r, map, true, true)
    return
  end
  local plan = runs.plan(r, step)
  -- What depends on a guarded step went on without it.
  if plan.guarded then return end
  runs.count(r, 'failures', -1)
  if r.state ~= 'running' and r.state ~= 'stopping' and r.state ~= 'failed' then return end
  if plan.undo then redis.call('RPUSH', r.key .. ':undo', step) end
  runs.plan_work(r, 'd', step)
  if tonumber(redis.call('HGET', r.key, 'failures') or 0) + r.counts.failures > 0 then return end
  if r.state == 'failed' then runs.reopen(r) end
  runs.set_run(r, 'running')
  runs.plan_work(r, 'r', '')
  for _, other in ipairs(redis.call('HKEYS', r.key .. ':maps')) do runs.plan_work(r, 'x', other) end
end

-- An ended run goes on.
runs.reopen = function(r)
  redis.call('PERSIST', r.key)
  for _, part in ipairs(runs.PARTS) do redis.call('PERSIST', r.key .. part) end
  redis.call('PERSIST', r.key .. ':events')
  redis.call('DEL', r.key .. ':ended')
  redis.call('HDEL', r.key, 'ended_ms')
  runs.emit(r, 'run_revived', 1)
end

-- A step has ended, in one word.
runs.ended = function(r, step, outcome)
  local was = runs.state(r, step):sub(1, 1)
  local letter = runs.LETTERS[outcome]
  if runs.NAMES[was] then
    if outcome == 'handled' and was ~= 'h' then runs.revived(r, step, was) end
    return
  end
  runs.set_state(r, step, letter)
  runs.count(r, 'open', -1)
  if step:sub(1, 1) == 'u' then
    if outcome ~= 'handled' then runs.count(r, 'undo_failures', 1) end
    return
  end
  runs.count(r, outcome, 1)
  local handled, plan = outcome == 'handled', runs.plan(r, step)
  if handled and plan.undo then redis.call('RPUSH', r.key .. ':undo', step) end
  local map = step:match('^(%d+)%.')
  if outcome == 'dead' and not map and plan.options ~= '' then runs.call_errbacks(r, plan) end
  if map then
    runs.item_ended(r, map, handled)
  elseif handled or plan.guarded then
    if plan.dependents ~= '' then runs.plan_work(r, 'd', step) end
  else
    runs.failed(r)
  end
end

runs.work_off = function(r)
  local agenda = r.key .. ':agenda'
  local at = 1
  while r.left > 0 do
    local item = r.work[at]
    if item then at = at + 1 else item = redis.call('LPOP', agenda) end
    if not item then break end
    local kind, step, from = item:match('^(%l):([^:]*):(%d+)$')
    if kind == 'd' then runs.resolve_dependents(r, step, tonumber(from))
    elseif kind == 'x' then runs.send_items(r, step)
    elseif kind == 'r' then runs.send_ready(r)
    else runs.recall(r, kind == 'c', from) end
  end
  for i = at, #r.work do redis.call('RPUSH', agenda, r.work[i]) end
  r.work = {}
end

-- Counts the open runs of the workflow, and emits what has happened to this one.
runs.emit = function(r, kind, by, ...)
  local id, name = unpack(redis.call('HMGET', r.key, 'id', 'name'))
  local open = r.root .. 'runs:open'
  if by ~= 0 and redis.call('HINCRBY', open, name, by) <= 0 then redis.call('HDEL', open, name) end
  emit_event(kind, r.uid, id, name, ...)
end

-- Ends the run in a state, and has it forgotten in time.
runs.finish = function(r, state)
  local now, started_ms, keep_ms = now_ms(), unpack(redis.call('HMGET', r.key, 'started_ms', 'keep_ms'))
  runs.set_run(r, state)
  redis.call('HSET', r.key, 'ended_ms', now)
  redis.call('RPUSH', r.key .. ':ended', state)
  redis.call('ZREM', r.root .. 'timers', 'run:' .. r.uid .. ':deadline')
  redis.call('PEXPIRE', r.key, keep_ms)
  for _, part in ipairs(runs.PARTS) do redis.call('PEXPIRE', r.key .. part, keep_ms) end
  redis.call('PEXPIRE', r.key .. ':events', keep_ms)
  runs.emit(r, 'run_ended', -1, state, ('%d'):format(math.max(0, now - started_ms)))
end

-- Nothing of the run is out and nothing is planned: it ends, or its next compensation is sent. Returns whether there is
-- more to do.
runs.end_or_undo = function(r)
  local undo = r.key .. ':undo'
  if r.state == 'running' then
    if redis.call('LLEN', r.key .. ':ready') > 0 then return false end
    if tonumber(redis.call('HGET', r.key, 'failures') or 0) > 0 then
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
    if redis.call('HEXISTS', r.key, 'ended_ms') == 0 then
      runs.finish(r, r.state == 'cancelled' and 'cancelled' or 'failed')
    end
  elseif r.state == 'compensating' then
    local step = redis.call('RPOP', undo)
    if step then
      local plan = runs.plan(r, 'u' .. step)
      runs.send(r, 'u' .. step, plan)
      return true
    end
    local failures = tonumber(redis.call('HGET', r.key, 'undo_failures') or 0)
    runs.finish(r, failures > 0 and 'compensation failed' or 'compensated')
  end
  return false
end

-- Does what is planned, as far as one script may, and writes the run's counts. Returns 1 if work is left, else 0.
runs.close = function(r)
  while true do
    runs.work_off(r)
    for name, by in pairs(r.counts) do
      if by ~= 0 then redis.call('HINCRBY', r.key, name, by) end
    end
    r.counts = {}
    if redis.call('EXISTS', r.key .. ':agenda') == 1 then
      redis.call('SADD', r.root .. 'runs:busy', r.uid)
      return 1
    end
    if tonumber(redis.call('HGET', r.key, 'open') or 0) > 0 or not runs.end_or_undo(r) then
      return 0
    end
  end
end
