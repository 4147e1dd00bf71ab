-- Repairs a step whose message is nowhere: its stream was deleted by hand, or a worker that knows no workflows recorded its outcome. Or a
-- workflow function that waits, though all of its calls have ended: its message is sent again.
-- KEYS: run, outcome of the step's delivery. ARGV: step, its state as it was when its message was not found.
-- Returns {'recorded' (its outcome was there), 'sent' (again), 'parked', 'cancelled', or '' if it has gone on meanwhile, 1 if
-- work is left}.
-- Costs: what one step of a run may; at most 120 messages.
--- @include "script_events"
--- @include "runs"
local run_key, outcome_key = KEYS[1], KEYS[2]
local step, state = ARGV[1], ARGV[2]
local run = runs.open(run_key)
if not run or run.over or runs.state(run, step) ~= state then return {'', 0} end
local hooks, name = hooks_of(outcome_key), runs.plan(run, step).name
local outcome = redis.call('LINDEX', outcome_key, -1)
local ended = outcome and (read_json(outcome) or {}).outcome
local how
if state:sub(1, 1) == 'y' then
  how = run.state == 'cancelled' and 'cancelled' or (run.paused or runs.STOPPED[run.state]) and 'parked' or 'sent'
  if how == 'cancelled' then runs.cancelled(run, step) else runs.send_again(run, step) end
elseif runs.LETTERS[ended] then
  how = 'recorded'
  redis.call('HDEL', hooks, 'replayed', unpack(ended ~= 'dead' and {'run', 'step', 'expand', 'waits'} or {}))
  if ended ~= 'handled' or not runs.expand(run, step, outcome) then runs.step_ended(run, step, ended, outcome) end
else
  runs.count(run, 'open', -1)
  if run.state == 'cancelled' then
    how = 'cancelled'
    redis.call('DEL', hooks)
    redis.call('SREM', run.root .. 'cancelling', outcome_key)
    runs.cancelled(run, step)
  elseif run.paused and step:sub(1, 1) ~= 'u' then
    how = 'parked'
    runs.park(run, step)
  else
    how = 'sent'
    runs.send(run, step, runs.plan(run, step))
  end
end
runs.emit(run, 'workflow_repaired', 0, name, how)
return with_events({how, runs.close(run)})
