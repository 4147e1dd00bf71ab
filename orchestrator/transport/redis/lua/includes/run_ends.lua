--- @include "mailbox_entry"
--- @include "runs"
-- What most ends of a step do not need, but failures, joins, pauses, and the start and the end of a run do; part of runs.lua.

runs.clear_state = function(r, step)
  r.states[step] = ''
  redis.call('HDEL', r.key .. ':states', step)
end

runs.set_run = function(r, state)
  r.state = state
  redis.call('HSET', r.key, 'state', state)
end

runs.park = function(r, step)
  runs.set_state(r, step, 'r')
  redis.call('RPUSH', r.key .. ':ready', step)
end

-- A step ends without a message. `reason` and `error` say why it is dead, if it is.
runs.end_unsent = function(r, step, outcome, reason, error)
  local json = '{"outcome":"handled","result":null,"attempts":0}'
  if reason then json = cjson.encode({outcome = outcome, reason = reason, error = error, attempts = 0}) end
  redis.call('HSET', r.key .. ':outcomes', step, json)
  runs.ended(r, step, outcome)
end

-- A step's member in the sorted set of timers.
runs.timer = function(r, step)
  return 'run:' .. r.uid .. ':' .. step
end

-- A step that is not guarded has failed. If that stops the run, its waits are parked, so that it can end.
runs.failed = function(r)
  runs.count(r, 'failures', 1)
  if r.state == 'running' and r.on_failure ~= 'continue' then
    runs.set_run(r, 'stopping')
    runs.plan_work(r, 'w', '')
  end
end

-- Emits an event of the run, and changes its workflow's number of open runs by `by`.
runs.emit = function(r, kind, by, ...)
  local id, name = unpack(redis.call('HMGET', r.key, 'id', 'name'))
  local open = r.root .. 'runs:open'
  if by ~= 0 and add_count(open, name, by) <= 0 then redis.call('HDEL', open, name) end
  emit_event(kind, r.uid, id, name, ...)
end

-- Ends the run in a state, and has it forgotten in time.
runs.finish = function(r, state)
  local now = now_ms()
  local started_ms, keep_ms, limit_key, placed =
    unpack(redis.call('HMGET', r.key, 'started_ms', 'keep_ms', 'limit_key', 'placed'))
  redis.call('HSET', r.key, 'state', state, 'ended_ms', now)
  -- A pause ends with the run: what a replay releases later would wait for ever.
  if r.paused then redis.call('HDEL', r.key, 'paused', 'paused_with') end
  r.state, r.over, r.paused = state, now, false
  redis.call('RPUSH', r.key .. ':ended', state)
  redis.call('ZREM', r.root .. 'timers', runs.timer(r, 'deadline'))
  redis.call('PEXPIRE', r.key, keep_ms)
  runs.emit(r, 'run_ended', -1, state, ('%d'):format(math.max(0, now - started_ms)))
  if placed then runs.forget_placed(r, placed) end
  if limit_key then runs.leave_limit(r, limit_key) end
end

-- Nothing of the run is out and nothing is planned: it ends, or its next compensation is sent. Returns whether there is
-- more to do.
runs.end_or_undo = function(r)
  local undo = r.key .. ':undo'
  if r.state == 'running' then
    if redis.call('EXISTS', r.key .. ':ready') == 1 then return false end
    if runs.count_of(r, 'failures') > 0 then
      runs.set_run(r, 'stopping')
      return true
    end
    runs.finish(r, 'completed')
  elseif r.state == 'stopping' or r.state == 'cancelled' then
    -- A failure that a deploy can repair is not compensated: a retry goes on.
    local wanted = r.on_failure == 'compensate' and runs.count_of(r, 'deploy_failures') == 0
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
    runs.finish(r, runs.count_of(r, 'undo_failures') > 0 and 'compensation failed' or 'compensated')
  end
  return false
end
