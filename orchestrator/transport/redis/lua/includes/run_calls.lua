--- @include "mailbox_entry"
--- @include "runs"
-- Calls of workflow functions; part of runs.lua. core/workflows/run_calls.py is the same rule in Python. An execution of a function that makes
-- calls without recorded outcomes ends with {suspended = {first, count, after, entries}}: a worker has written the calls to the plan
-- before, and the function's message is sent again once all of them have ended.
--   x17 in :plan      its dependents are the calls, from 17 on
--   x17 in :states    h, once they have begun
--   x17 in :outcomes  the outcome of that execution
--   l17 in :outcomes  a call's outcome after a replay that came too late for its caller
-- The caller's state is 'y3' while 3 calls are out; :calls has, of each caller, the number of entries of its history and the numbers
-- of its calls: '5:17-19,24-24'. A range is a batch: the calls that one execution has ended with. A call has the option `caller`.

-- An execution has ended with calls: they begin, and the function waits for them. It has no effect if another execution has recorded
-- its end meanwhile: one of the two was of a replayed letter.
runs.suspend = function(r, step, outcome, suspended)
  local was = runs.state(r, step):sub(1, 1)
  local entries, ranges = (redis.call('HGET', r.key .. ':calls', step) or '0:'):match('^(%d+):(.*)$')
  local first, count = suspended.first, suspended.count
  if was ~= 's' and was ~= 'r' and not runs.FAILED[was] or tonumber(entries) ~= suspended.after or count == 0 then return end
  if was == 's' then runs.count(r, 'open', -1) end
  if r.state ~= 'running' and not runs.STOPPED[r.state] then
    if was == 's' then runs.cancelled(r, step) end
    return
  end
  if runs.FAILED[was] and not runs.bring_back(r, step, was) then return end
  local begin = ('x%d'):format(first)
  runs.set_state(r, step, ('y%d'):format(count))
  runs.set_state(r, begin, 'h')
  redis.call('HSET', r.key .. ':outcomes', begin, outcome)
  if ranges ~= '' then ranges = ranges .. ',' end
  local known = ('%d:%s%d-%d'):format(entries + #suspended.entries, ranges, first, first + count - 1)
  redis.call('HSET', r.key .. ':calls', step, known)
  redis.call('HINCRBY', r.key, 'total', count)
  runs.plan_work(r, 'd', begin)
end

-- Nothing is left of what a step's message came to, so that it can be sent again with the same id.
runs.forget_delivery = function(r, step)
  local outcome = r.root .. 'outcome:' .. runs.delivery(r, step)
  redis.call('DEL', outcome, hooks_of(outcome))
  redis.call('SREM', r.root .. 'cancelling', outcome)
end

-- Has the message of a caller sent again; its delivery's last outcome is that of an earlier execution.
runs.send_again = function(r, caller)
  runs.forget_delivery(r, caller)
  runs.release(r, caller)
end

-- A call has ended: after the last one, the caller's message is sent again.
runs.call_ended = function(r, caller)
  local left = tonumber(runs.state(r, caller):match('^y(%d+)$'))
  if not left then return end
  runs.set_state(r, caller, ('y%d'):format(left - 1))
  if left == 1 then runs.send_again(r, caller) end
end

runs.is_of_last_batch = function(r, step, caller)
  local first = (redis.call('HGET', r.key .. ':calls', caller) or ''):match('(%d+)%-%d+$')
  return tonumber(step) >= tonumber(first or 0)
end

-- Whether the caller of a call that was not handled has gone on: then it stays so, whatever a replay comes to. Otherwise the caller,
-- executed again, would take another way than it has.
runs.has_seen = function(r, step, was)
  if not runs.FAILED[was] or not step:find('^%d+$') then return false end
  local caller = runs.caller_of(runs.plan(r, step))
  if not caller then return false end
  local state = runs.state(r, caller):sub(1, 1)
  return not runs.is_of_last_batch(r, step, caller) or state ~= 'y' and not runs.FAILED[state]
end

-- A call whose failure its caller has seen is handled after a replay: only its compensation is owed.
runs.late_outcome = function(r, step, ended, outcome)
  if ended == 'handled' and redis.call('HSETNX', r.key .. ':outcomes', 'l' .. step, outcome) == 1 then
    runs.remember_undo(r, step)
  end
end

-- A call is handled after a replay: a caller that has failed with it is executed again.
runs.call_revived = function(r, caller)
  local was = runs.state(r, caller):sub(1, 1)
  if not runs.FAILED[was] or r.state ~= 'running' and not runs.STOPPED[r.state] then return end
  if runs.bring_back(r, caller, was) then runs.send_again(r, caller) end
end

-- Has a call that was not handled begin again. Returns false if its caller has gone on.
runs.retry_call = function(r, step, was)
  if not runs.bring_back(r, step, was) then return false end
  runs.send_again(r, step)
  return true
end

-- A step that was not handled has not ended after all. Returns false if others have begun on its failure. If it is a call, its caller
-- waits for it again.
runs.bring_back = function(r, step, was)
  local caller = step:find('^%d+$') and runs.caller_of(runs.plan(r, step))
  if not caller then return runs.unfail(r, step, was) end
  local state = runs.state(r, caller)
  if not runs.is_of_last_batch(r, step, caller) then return false end
  local left = tonumber(state:match('^y(%d+)$'))
  if left then
    runs.set_state(r, caller, ('y%d'):format(left + 1))
  elseif runs.FAILED[state:sub(1, 1)] and runs.bring_back(r, caller, state:sub(1, 1)) then
    runs.set_state(r, caller, 'y1')
  else
    return false
  end
  runs.forget_end(r, step, was)
  return true
end
