--- @include "mailbox_entry"
--- @include "letters_out"
--- @include "runs"
-- Steps that are handled after all, or begin again: after the replay of a dead letter, or a retry; part of runs.lua.

-- The replayed letter of a step that was not handled has its outcome.
runs.ended_again = function(r, step, was, outcome, by_deployment)
  local was_by_deployment = runs.state(r, step) == 'd1'
  if outcome == 'handled' then
    runs.revived(r, step, was)
  elseif was_by_deployment and outcome == 'dead' and not by_deployment then
    runs.leave_deployment(r, step)
    runs.set_state(r, step, 'd')
  end
  if was_by_deployment then runs.compensate_after_all(r) end
end

-- A step is not dead by the deployment any more, if it was.
runs.leave_deployment = function(r, step)
  if runs.state(r, step) == 'd1' then runs.count(r, 'deploy_failures', -1) end
end

-- A failure by the deployment has ended; a run that it has kept from its compensation may have failed otherwise.
runs.compensate_after_all = function(r)
  if r.state == 'failed' and r.on_failure == 'compensate' and runs.count_of(r, 'deploy_failures') == 0
      and runs.count_of(r, 'failures') > 0 and redis.call('EXISTS', r.key .. ':undo') == 1 then
    runs.reopen(r, 'stopping')
  end
end

-- A step that was not handled is handled after all, because its dead letter was replayed.
runs.revived = function(r, step, was)
  runs.leave_deployment(r, step)
  runs.set_state(r, step, 'h')
  if step:sub(1, 1) == 'u' then
    runs.count(r, 'undo_failures', -1)
    if r.state == 'compensation failed' and runs.count_of(r, 'undo_failures') == 0 then
      local now, started_ms = now_ms(), redis.call('HGET', r.key, 'started_ms')
      runs.set_run(r, 'compensated')
      redis.call('HSET', r.key, 'ended_ms', now)
      redis.call('LSET', r.key .. ':ended', 0, 'compensated')
      runs.emit(r, 'run_ended', 0, 'compensated', ('%d'):format(math.max(0, now - started_ms)))
    end
    return
  end
  runs.count(r, runs.NAMES[was], -1)
  runs.count(r, 'handled', 1)
  runs.remember_undo(r, step)
  local map = step:match('^(%d+)%.')
  if map then return runs.item_ended(r, map, true, true) end
  local caller = runs.caller_of(runs.plan(r, step))
  if caller then return runs.call_revived(r, caller) end
  -- The steps that depend on a guarded step went on without it.
  if runs.plan(r, step).guarded then return end
  runs.count(r, 'failures', -1)
  if r.state ~= 'running' and not runs.STOPPED[r.state] then return end
  runs.plan_work(r, 'd', step)
  if runs.count_of(r, 'failures') == 0 then
    runs.reopen(r, 'running')
    runs.plan_work(r, 'r', '')
  end
end

-- Begins a step again that was not handled; of a map, its items that were not. Returns the result.
runs.retry = function(r, step)
  local was = runs.state(r, step):sub(1, 1)
  if not runs.FAILED[was] then return 'not failed' end
  -- Two messages would be out, and the one that ends first would be the step's outcome.
  if letters_out.has(r.root, r.key, step, letters_out.above(r.key, step)) then return 'replayed' end
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

-- Compensates a failed run because its user wants it so. Returns the result.
runs.compensate = function(r)
  if r.state ~= 'failed' then
    if not r.over and r.state ~= 'compensating' then return 'not ended' end
    return runs.NO_RETRY[r.state] or 'run compensated'
  end
  if redis.call('EXISTS', r.key .. ':undo') == 0 then return 'nothing to compensate' end
  redis.call('HSETNX', r.key, 'because', 'failed')
  runs.reopen(r, 'compensating')
  return 'done'
end

-- A step has not ended after all.
runs.forget_end = function(r, step, was)
  runs.leave_deployment(r, step)
  runs.count(r, runs.NAMES[was], -1)
  runs.clear_state(r, step)
  redis.call('HDEL', r.key .. ':outcomes', step)
end

-- Its message is sent again with the same id, so that nothing of its outcome may be left.
runs.forget_outcome = function(r, step, was)
  runs.forget_end(r, step, was)
  runs.forget_delivery(r, step)
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
