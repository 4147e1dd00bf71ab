--- @include "mailbox_entry"
--- @include "endings"
--- @include "runs"
-- Messages that are taken back and parked: because of a pause, a cancel, a failure or an agent's death; and what goes on after a
-- pause. Part of runs.lua.

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
  add_count(ledger, 'cancelled', 1)
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
    runs.clear_state(r, step)
    redis.call('RPUSH', r.key .. ':undo', step:sub(2))
  else
    runs.park(r, step)
  end
end

-- During a pause a message that waits for its next attempt is never due. `waits` says where it waits (see retry.lua).
runs.postpone = function(r, waits)
  local delayed, member = (waits or ''):match('^([^\n]*)\n[^\n]*\n(.*)$')
  local due = delayed and redis.call('ZSCORE', delayed, member)
  if not due or tonumber(due) == runs.NEVER_MS then return end
  redis.call('ZADD', delayed, ('%.0f'):format(runs.NEVER_MS), member)
  redis.call('RPUSH', r.key .. ':postponed', due .. '\n' .. waits)
  redis.call('HSET', r.key, 'postponed', '1')
  r.postponed = '1'
end

-- The pause is over: what it postponed is due when it was. Returns whether there is more than one script may do.
runs.let_go = function(r)
  for _ = 1, runs.BUDGET do
    local due, delayed, bell, member =
      (redis.call('LPOP', r.key .. ':postponed') or ''):match('^([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$')
    if not due then
      redis.call('HDEL', r.key, 'postponed')
      r.postponed = nil
      return false
    end
    if redis.call('ZSCORE', delayed, member) then
      redis.call('ZADD', delayed, due, member)
      redis.call('XADD', bell, 'MAXLEN', 4, '*', 'b', '1')
    end
  end
  return true
end

-- Steps that one script looks through at the most. Of a hash of up to 512 fields, which Redis packs, HSCAN returns all; a value that
-- is too long to be packed makes it one of pages.
runs.MOST_PACKED = 150

-- Goes through all steps from HSCAN's cursor `from` on. A pause (p) takes back messages; a cancel (c) does so too, and ends waits
-- and maps; after a failure that stops the run (w) waits are parked; after an agent's death (a) what was placed with it is placed
-- again.
runs.recall = function(r, _, from, kind)
  local cancel = kind == 'c'
  r.left = r.left - 1
  if kind == 'p' and not r.paused or cancel and r.state ~= 'cancelled' or kind == 'w' and not runs.STOPPED[r.state]
      or kind == 'a' and r.state == 'cancelled' then
    return nil
  end
  local states = r.key .. ':states'
  if from == '0' and redis.call('HLEN', states) > runs.MOST_PACKED then
    redis.call('HSET', states, '-', (' '):rep(1000))
    redis.call('HDEL', states, '-')
  end
  local found = redis.call('HSCAN', states, from, 'COUNT', 50)
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
        runs.postpone(r, redis.call('HGET', r.root .. 'hooks:' .. runs.delivery(r, step), 'waits'))
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

-- A step ends because its run was cancelled before it began.
runs.cancelled = function(r, step)
  redis.call('HSET', r.key .. ':outcomes', step, runs.CANCELLED)
  runs.set_state(r, step, 'c')
  runs.count(r, 'cancelled', 1)
  local map = step:match('^(%d+)%.')
  if map then runs.item_ended(r, map, false) end
end
