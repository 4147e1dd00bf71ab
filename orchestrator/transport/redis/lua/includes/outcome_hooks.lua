--- @include "mailbox_entry"
--- @include "script_events"
--- @include "broadcasts"
--- @include "letters_out"
--- @include "runs"
--- @include "schedules"
--- @include "asks"
--- @include "ballots"
-- What else happens when a delivery's outcome is recorded. The fields of the outcome's hooks:
--   idempotency         Redis key of its idempotency key, which is remembered as long as the outcome
--   idempotency_ms      how long that is
--   group, member       the broadcast that it is a copy in; what it takes to send its recipient the compensation: [number of the
--                       text, agent, task, queue, level, id]
--   cancel, cancelling  the outcome of a delivery that was cancelled while a worker had it; the set of all such deliveries
--   undo, undo_of       the compensation of a copy that died, to be sent if the copy is replayed and handled; its group, root,
--                       level, queue and id
--   run, step           key of the workflow's run that it is a step of; that step
--   replayed            1 while a dead letter of that step is out again
--   waits               where its message waits for its next attempt: sorted set, doorbell, member
--   expand              1 if an attempt of it has written steps that are to take its place
--   schedule, pauses    state of the schedule whose fire it is; '1' if its failure pauses that
--   ask                 the ask that it is a request of
--   ballot              whose vote it is, and in which ballot
run_outcome_hooks = function(key, ended, ttl_ms, outcome)
  local hooks = hooks_of(key)
  local idempotency_key, idempotency_ms, group, member, cancelling, undo, undo_of, run_key, step, expand, schedule, pauses, ask, ballot,
    replayed =
    unpack(redis.call('HMGET', hooks, 'idempotency', 'idempotency_ms', 'group', 'member', 'cancelling', 'undo', 'undo_of', 'run',
      'step', 'expand', 'schedule', 'pauses', 'ask', 'ballot', 'replayed'))
  if idempotency_key then
    redis.call('PEXPIRE', key, math.max(tonumber(ttl_ms), tonumber(idempotency_ms)))
    redis.call('PEXPIRE', idempotency_key, idempotency_ms)
    redis.call('PEXPIRE', hooks, idempotency_ms)
  end
  if cancelling then
    redis.call('HDEL', hooks, 'cancel', 'cancelling')
    redis.call('SREM', cancelling, key)
  end
  if group then
    redis.call('HDEL', hooks, 'group', 'member')
    broadcasts.member_ended(hooks, group, member, ended)
  elseif undo and ended ~= 'dead' then
    redis.call('HDEL', hooks, 'undo', 'undo_of')
    if ended == 'handled' then broadcasts.send_compensation(undo, read_json(undo_of)) end
  end
  if run_key then
    if ended == 'dead' then
      redis.call('HDEL', hooks, 'replayed')
      redis.call('PEXPIRE', hooks, runs.DEAD_MS)
    else
      redis.call('HDEL', hooks, 'run', 'step', 'expand', 'waits', 'replayed')
    end
    local run = runs.open(run_key)
    if run then
      if replayed then letters_out.count(run.key, letters_out.above(run.key, step), -1) end
      if not expand or ended ~= 'handled' or not runs.expand(run, step, outcome) then
        runs.step_ended(run, step, ended, outcome)
      end
      runs.close(run)
    end
  end
  if schedule then
    redis.call('HDEL', hooks, 'schedule', 'pauses')
    schedules.fire_ended(schedule, key:match('orc:outcome:(.*)$'), ended, pauses)
  end
  if ask then
    redis.call('HDEL', hooks, 'ask')
    asks.copy_ended(ask, ended, outcome, key:match('orc:outcome:(.*)$'))
  end
  if ballot then
    redis.call('HDEL', hooks, 'ballot')
    ballots.copy_ended(ballot, ended, outcome)
  end
end
