-- Places steps of a run again: those that are unplaced, and those whose agent is down and which no worker has begun.
-- KEYS: run, runs with unplaced steps, runs with steps placed with the agent that is down. ARGV: uid, '1' if an agent is down.
-- Returns 1 if work is left, else 0.
-- Costs: what one step of a run may; at most 120 messages.
--- @include "script_events"
--- @include "runs"
local run_key, unplaced, placed = KEYS[1], KEYS[2], KEYS[3]
local uid, is_down = ARGV[1], ARGV[2] == '1'
-- How long until unplaced steps are tried again, and until the steps of an agent that is down are looked at again: what a worker had
-- claimed, and is not known to have begun, has come back by then.
local TRY_MS, LOOK_MS = 800, 5000
local run = runs.open(run_key)
if not run or run.over then
  redis.call('ZREM', unplaced, uid)
  redis.call('ZREM', placed, uid)
  return 0
end
if is_down then
  redis.call('ZADD', placed, 'XX', now_ms() + LOOK_MS, uid)
  runs.plan_work(run, 'a', '')
end
local count = redis.call('ZCARD', run_key .. ':unplaced')
if count == 0 then
  redis.call('ZREM', unplaced, uid)
else
  redis.call('ZADD', unplaced, 'XX', now_ms() + TRY_MS, uid)
end
runs.plan_work(run, 'n', '', count)
return with_events(runs.close(run))
