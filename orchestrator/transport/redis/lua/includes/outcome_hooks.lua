--- @include "mailbox_entry"
--- @include "script_events"
--- @include "broadcasts"
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
  local beside = hooks_of(key)
  local f = redis.call('HMGET', beside, 'idempotency', 'idempotency_ms', 'group', 'member', 'cancelling', 'undo', 'undo_of',
    'run', 'step', 'expand', 'schedule', 'pauses', 'ask', 'ballot', 'replayed')
  if f[1] then
    redis.call('PEXPIRE', key, math.max(tonumber(ttl_ms), tonumber(f[2])))
    redis.call('PEXPIRE', f[1], f[2])
    redis.call('PEXPIRE', beside, f[2])
  end
  if f[5] then
    redis.call('HDEL', beside, 'cancel', 'cancelling')
    redis.call('SREM', f[5], key)
  end
  if f[3] then
    redis.call('HDEL', beside, 'group', 'member')
    broadcasts.member_ended(beside, f[3], f[4], ended)
  elseif f[6] and ended ~= 'dead' then
    redis.call('HDEL', beside, 'undo', 'undo_of')
    if ended == 'handled' then broadcasts.send_compensation(f[6], read_json(f[7])) end
  end
  if f[8] then
    if ended == 'dead' then
      redis.call('HDEL', beside, 'replayed')
      redis.call('PEXPIRE', beside, runs.DEAD_MS)
    else
      redis.call('HDEL', beside, 'run', 'step', 'expand', 'waits', 'replayed')
    end
    local run = runs.open(f[8])
    if run then
      local map = f[15] and f[9]:match('^(%d+)%.')
      if map then redis.call('HINCRBY', run.key, 'replayed:' .. map, -1) end
      if not f[10] or ended ~= 'handled' or not runs.expand(run, f[9], outcome) then
        runs.step_ended(run, f[9], ended, outcome)
      end
      runs.close(run)
    end
  end
  if f[11] then
    redis.call('HDEL', beside, 'schedule', 'pauses')
    schedules.fire_ended(f[11], key:match('orc:outcome:(.*)$'), ended, f[12])
  end
  if f[13] then
    redis.call('HDEL', beside, 'ask')
    asks.finish(f[13], ended, outcome, key:match('orc:outcome:(.*)$'))
  end
  if f[14] then
    redis.call('HDEL', beside, 'ballot')
    ballots.copy_ended(f[14], ended, outcome)
  end
end
