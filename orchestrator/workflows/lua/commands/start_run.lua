-- Starts a run: one whose plan lies beside its key, in state `writing`, or one of at most 200 steps and templates whose plan comes along.
-- KEYS: run, runs, runs by id. ARGV: uid, workflow id, fingerprint, numbers of the steps that depend on nothing as ranges,
-- ms after which it is cancelled or ''; of a plan that comes along also how many fields the run has, how many templates, each
-- field and its value, …, number of a template, its text, …, step, its plan, ….
-- Returns {uid, 1 if work is left}. If another run has the id, drops this one, and returns the uid of that one if its
-- definition is the same, else ''. A repeated call returns its uid again.
-- Costs: at most 120 messages; of a plan that comes along 200 values, 256 KB.
--- @include "script_events"
--- @include "runs"
local run_key, all_runs, by_id = KEYS[1], KEYS[2], KEYS[3]
local uid, id, fingerprint, roots, deadline_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local field_count, template_count = tonumber(ARGV[6]), tonumber(ARGV[7])
local FIRST_FIELD = 8
local root = run_key:sub(1, -#uid - 5)
local is_written = not field_count
if is_written and redis.call('EXISTS', run_key) == 0 then return redis.error_reply('NORUN its plan has expired') end
local first = redis.call('HGET', by_id, id)
if first == uid then return {uid, 1} end
if first and redis.call('EXISTS', root .. 'run:' .. first) == 1 then
  if is_written then redis.call('UNLINK', run_key, run_key .. ':plan', run_key .. ':templates') end
  return {redis.call('HGET', root .. 'run:' .. first, 'fingerprint') == fingerprint and first or '', 0}
end
local now = now_ms()
-- The steps that depend on nothing are made dependents of a step `start`, which has ended.
local start = 'j\nstart\n\n\n\n0\n\n\n\n' .. roots .. '\n\n\n\n\n'
if is_written then
  for _, part in ipairs({'', ':plan', ':templates'}) do redis.call('PERSIST', run_key .. part) end
  if redis.call('HEXISTS', run_key, 'fork_of') == 1 then
    for _, part in ipairs(runs.PARTS) do redis.call('PERSIST', run_key .. part) end
  end
  redis.call('HSET', run_key .. ':plan', 'start', start)
else
  local first_template = FIRST_FIELD + 2 * field_count
  local first_step = first_template + 2 * template_count
  redis.call('HSET', run_key, unpack(ARGV, FIRST_FIELD, first_template - 1))
  if template_count > 0 then redis.call('HSET', run_key .. ':templates', unpack(ARGV, first_template, first_step - 1)) end
  redis.call('HSET', run_key .. ':plan', 'start', start, unpack(ARGV, first_step))
end
redis.call('HSET', by_id, id, uid)
redis.call('ZADD', all_runs, now, uid)
redis.call('HSET', run_key, 'state', 'running', 'started_ms', now)
redis.call('HSET', run_key .. ':states', 'start', 'h')
local name, limit = unpack(redis.call('HMGET', run_key, 'name', 'limit'))
if redis.call('SISMEMBER', root .. 'runs:paused', name) == 1 then
  redis.call('HSET', run_key, 'paused', '1', 'paused_with', 'workflow')
end
if deadline_ms ~= '' then redis.call('ZADD', root .. 'timers', now + deadline_ms, 'run:' .. uid .. ':deadline') end
local run = runs.open(run_key)
runs.emit(run, 'run_started', 1)
if not limit or runs.enter_limit(run) then runs.plan_work(run, 'd', 'start') end
return with_events({uid, runs.close(run)})
