--- @include "mailbox_entry"
--- @include "runs"
-- Waits for an event or a time; part of runs.lua.

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

-- The event that a step waited for has happened; `payload` is JSON.
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

runs.event_came = function(r, event, from)
  local payload = redis.call('HGET', r.key .. ':events', event)
  local waits = redis.call('HGET', r.key .. ':plan', 'event:' .. event) or ''
  return runs.each(r, waits, from, function(step)
    if runs.state(r, step) == 'u' then runs.happened(r, step, payload) end
  end)
end
