-- Pauses, resumes, cancels or compensates a run, or has it notice an event or a time.
-- KEYS: run, timers; except of `time` also the hash of last publishes. ARGV: uid; token of this call, or ''; action: `pause`, `resume`, `cancel`,
-- `compensate`, `retry`, `post` or `time`; of `pause` and `resume` `workflow` if all runs of its workflow are meant, else ''; of `cancel` '1' if it
-- compensates; of `post` the event and its payload as JSON; of `time` the step, or `deadline`; of `retry` the step.
-- Returns what it came to: `done`, `too late` if the run has ended, `not paused`, `paused already`, `cancelled already`, `unknown`; of a
-- retry also `not failed`, `replayed`, `others began`, `run cancelled`, `run completed`, `run compensated`; of `compensate` the last three, `not ended` and
-- `nothing to compensate`; and 1 if work may be left. A repeated
-- call returns its first answer, and changes nothing.
-- A timer that is not due, because it was set anew or another sweeper was first, is `done` without effect.
-- Costs: what one step of a run may; at most 120 messages.
--- @include "recorded_answers"
--- @include "script_events"
--- @include "runs"
local run_key, timers, publishes = KEYS[1], KEYS[2], KEYS[3]
local uid, token, action, value, payload = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local answered = publishes and recorded_answer(publishes, token)
if answered then return {answered, 1} end

local function answer(said, left)
  if publishes then record_answer(publishes, token, said) end
  return with_events({said, left})
end

-- On a full server, too: a paused or cancelled run takes no more memory.
if action == 'pause' or action == 'cancel' then even_when_full(timers) end
if action == 'time' then
  local timer = 'run:' .. uid .. ':' .. value
  if now_ms() < tonumber(redis.call('ZSCORE', timers, timer) or math.huge) then return {'done', 0} end
  redis.call('ZREM', timers, timer)
end
local run = runs.open(run_key)
if not run then return {'unknown', 0} end
if action == 'retry' then
  local said = runs.retry(run, value)
  return answer(said, said == 'done' and runs.close(run) or 0)
end
if action == 'compensate' then
  local said = runs.compensate(run)
  return answer(said, said == 'done' and runs.close(run) or 0)
end
if run.over then return answer('too late', 0) end
if action == 'pause' then
  if run.paused then return answer('paused already', 0) end
  redis.call('HSET', run_key, 'paused', '1', 'paused_with', value)
  run.paused = true
  runs.emit(run, 'run_paused', 0)
  runs.plan_work(run, 'p', '')
elseif action == 'resume' then
  local with = redis.call('HGET', run_key, 'paused_with')
  if not run.paused or value == 'workflow' and with ~= value then return answer('not paused', 0) end
  redis.call('HDEL', run_key, 'paused', 'paused_with')
  run.paused = false
  runs.emit(run, 'run_resumed', 0)
  runs.plan_work(run, 'r', '')
elseif action == 'cancel' then
  if run.state == 'cancelled' then return answer('cancelled already', 0) end
  if run.state == 'compensating' then return answer('too late', 0) end
  runs.cancel(run, value == '1')
elseif action == 'post' then
  if redis.call('HSETNX', run_key .. ':events', value, payload) == 1 then runs.plan_work(run, 'e', value) end
elseif value == 'deadline' then
  if run.state == 'running' or run.state == 'stopping' or run.state == 'queued' then
    redis.call('HSET', run_key, 'because', 'deadline passed')
    runs.cancel(run, run.on_failure == 'compensate')
  end
else
  runs.time_came(run, value)
end
return answer('done', runs.close(run))
