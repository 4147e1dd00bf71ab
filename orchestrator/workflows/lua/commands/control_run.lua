-- Pauses, resumes or cancels a run, or has it notice an event or a time.
-- KEYS: run. ARGV: action: `pause`, `resume`, `cancel`, `post` or `time`; of `pause` and `resume` `workflow` if all runs of its
-- workflow are meant, else ''; of `cancel` '1' if it compensates; of `post` the event and its payload as JSON; of `time` the
-- step, or `deadline`.
-- Returns what it came to: `done`, `too late` if the run has ended, `not paused`, `paused already`, `cancelled already`,
-- `unknown`; and 1 if work is left.
-- Costs: at most 200 messages.
--- @include "script_events"
--- @include "runs"
local run_key, action, value, payload = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local run = runs.open(run_key)
if not run then return {'unknown', 0} end
local over = redis.call('HEXISTS', run_key, 'ended_ms') == 1
local function timer(step)
  local state = runs.state(run, step)
  if state:sub(1, 1) ~= 'u' then return end
  local options = cjson.decode(runs.plan(run, step).options)
  if options.event then
    local outcome = {outcome = 'dead', reason = 'timeout', error = 'the event did not come in time', attempts = 0}
    redis.call('HSET', run_key .. ':outcomes', step, cjson.encode(outcome))
    runs.ended(run, step, 'dead')
  else
    runs.happened(run, step, 'null')
  end
end
local function cancel(compensates)
  runs.set_run(run, 'cancelled')
  runs.emit(run, 'run_cancelled', 0)
  redis.call('HSET', run_key, 'compensate', compensates and '1' or '0')
  redis.call('ZREM', run.root .. 'timers', 'run:' .. run.uid .. ':deadline')
  runs.plan_work(run, 'c', '', '0')
end
if over then return {'too late', 0} end
if action == 'pause' then
  if run.paused then return {'paused already', 0} end
  redis.call('HSET', run_key, 'paused', '1', 'paused_with', value)
  run.paused = true
  runs.emit(run, 'run_paused', 0)
  runs.plan_work(run, 'p', '', '0')
elseif action == 'resume' then
  local with = redis.call('HGET', run_key, 'paused_with')
  if not run.paused or value == 'workflow' and with ~= value then return {'not paused', 0} end
  redis.call('HDEL', run_key, 'paused', 'paused_with')
  run.paused = false
  runs.emit(run, 'run_resumed', 0)
  runs.plan_work(run, 'r', '')
  for _, map in ipairs(redis.call('HKEYS', run_key .. ':maps')) do runs.plan_work(run, 'x', map) end
elseif action == 'cancel' then
  if run.state == 'cancelled' then return {'cancelled already', 0} end
  if run.state == 'compensating' then return {'too late', 0} end
  cancel(value == '1')
elseif action == 'post' then
  if redis.call('HSETNX', run_key .. ':events', value, payload) == 1 then
    local states = redis.call('HGET', run_key, 'waits') or ''
    for step in states:gmatch('%d+') do
      if runs.state(run, step):sub(1, 1) == 'u' and cjson.decode(runs.plan(run, step).options).event == value then
        runs.happened(run, step, payload)
      end
    end
  end
elseif value == 'deadline' then
  if run.state == 'running' or run.state == 'stopping' then
    redis.call('HSET', run_key, 'because', 'deadline passed')
    cancel(run.on_failure == 'compensate')
  end
else
  timer(value)
end
return with_events({'done', runs.close(run)})
