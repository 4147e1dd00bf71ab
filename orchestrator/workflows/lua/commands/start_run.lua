-- Starts a run whose plan lies beside its key, in state `writing`.
-- KEYS: run, runs, runs by id. ARGV: uid, workflow id, fingerprint, numbers of the steps that depend on nothing as ranges,
-- ms after which it is cancelled or ''.
-- Returns {uid, 1 if work is left}. If another run has the id, drops this one, and returns the uid of that one if its
-- definition is the same, else ''. A repeated call returns its uid again.
-- Costs: at most 120 messages.
--- @include "script_events"
--- @include "runs"
local run_key, all_runs, by_id = KEYS[1], KEYS[2], KEYS[3]
local uid, id, fingerprint, roots, deadline_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local root = redis.call('HGET', run_key, 'root')
if not root then return redis.error_reply('NORUN its plan has expired') end
local first = redis.call('HGET', by_id, id)
if first == uid then return {uid, 1} end
if first and redis.call('EXISTS', root .. 'run:' .. first) == 1 then
  redis.call('UNLINK', run_key, run_key .. ':plan', run_key .. ':templates')
  return {redis.call('HGET', root .. 'run:' .. first, 'fingerprint') == fingerprint and first or '', 0}
end
local now = now_ms()
redis.call('HSET', by_id, id, uid)
redis.call('ZADD', all_runs, now, uid)
redis.call('HSET', run_key, 'state', 'running', 'started_ms', now)
if redis.call('SISMEMBER', root .. 'runs:paused', redis.call('HGET', run_key, 'name')) == 1 then
  redis.call('HSET', run_key, 'paused', '1', 'paused_with', 'workflow')
end
for _, part in ipairs({'', ':plan', ':templates'}) do redis.call('PERSIST', run_key .. part) end
if redis.call('HEXISTS', run_key, 'fork_of') == 1 then
  for _, part in ipairs(runs.PARTS) do redis.call('PERSIST', run_key .. part) end
end
-- The steps that depend on nothing are made dependents of a step `start`, which has ended.
redis.call('HSET', run_key .. ':states', 'start', 'h')
redis.call('HSET', run_key .. ':plan', 'start', ('j\nstart\n\n\n\n0\n\n\n\n' .. roots .. '\n\n\n\n\n'))
if deadline_ms ~= '' then redis.call('ZADD', root .. 'timers', now + deadline_ms, 'run:' .. uid .. ':deadline') end
local run = runs.open(run_key)
runs.emit(run, 'run_started', 1)
if runs.enter_limit(run) then runs.plan_work(run, 'd', 'start') end
return with_events({uid, runs.close(run)})
