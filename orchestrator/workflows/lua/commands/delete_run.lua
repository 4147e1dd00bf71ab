-- Forgets a run that has ended. What its steps still do after that counts in the ledger, and changes nothing else.
-- KEYS: run, runs, runs by id, busy runs, hash of last publishes. ARGV: uid, token of this call.
-- Returns `done`, also to a repeated call; `not ended`; `unknown`.
-- Costs: a constant; Redis frees the memory in another thread.
--- @include "script_events"
--- @include "runs"
local run_key, all_runs, by_id, busy, publishes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local uid, token = ARGV[1], ARGV[2]
if redis.call('HEXISTS', publishes, token) == 1 then return 'done' end
local id, ended_ms = unpack(redis.call('HMGET', run_key, 'id', 'ended_ms'))
if not id then return 'unknown' end
if not ended_ms then return 'not ended' end
redis.call('HSET', publishes, token, 'done')
redis.call('PEXPIRE', publishes, 900000)
redis.call('UNLINK', run_key, run_key .. ':events')
for _, part in ipairs(runs.PARTS) do redis.call('UNLINK', run_key .. part) end
redis.call('ZREM', all_runs, uid)
redis.call('SREM', busy, uid)
if redis.call('HGET', by_id, id) == uid then redis.call('HDEL', by_id, id) end
return 'done'
