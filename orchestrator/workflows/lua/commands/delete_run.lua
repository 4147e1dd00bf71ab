-- Forgets a run. What its steps still do after that counts in the ledger, and changes nothing else.
-- KEYS: run, runs, runs by id, busy runs, hash of last publishes. ARGV: uid, token of this call, '1' if it may go on.
-- Returns `done`, also to a repeated call; `not ended`; `busy` if it goes on and work on it is left, which takes back its messages;
-- `unknown`.
-- Costs: a constant, and the start of the runs that wait for it; Redis frees the memory in another thread.
--- @include "recorded_answers"
--- @include "script_events"
--- @include "runs"
local run_key, all_runs, by_id, busy, publishes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local uid, token, force = ARGV[1], ARGV[2], ARGV[3] == '1'
-- How long those who wait for the end of a run that goes on can see that it has ended.
local SEEN_MS = 60000
if recorded_answer(publishes, token) then return 'done' end
local id, ended_ms = unpack(redis.call('HMGET', run_key, 'id', 'ended_ms'))
if not id then return 'unknown' end
even_when_full(busy)
local run = not ended_ms and runs.open(run_key)
if not ended_ms and not (force and run) then return 'not ended' end
if run then
  if redis.call('EXISTS', run_key .. ':agenda') == 1 then return 'busy' end
  redis.call('UNLINK', run_key .. ':ended')
  runs.finish(run, 'cancelled')
end
record_answer(publishes, token, 'done')
redis.call('UNLINK', run_key)
for _, part in ipairs(runs.PARTS) do
  if not run or part ~= ':ended' then redis.call('UNLINK', run_key .. part) end
end
if run then redis.call('PEXPIRE', run_key .. ':ended', SEEN_MS) end
redis.call('ZREM', all_runs, uid)
redis.call('SREM', busy, uid)
if redis.call('HGET', by_id, id) == uid then redis.call('HDEL', by_id, id) end
return with_events('done')
