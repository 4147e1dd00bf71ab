--- @include "mailbox_entry"
--- @include "runs"
-- How many runs are out at a time under a key: others are queued, or one is cancelled; part of runs.lua.

-- A run with a limit that starts is one of at most some under a key. Returns whether it begins now; if not it is queued, or cancelled.
runs.enter_limit = function(r)
  local limit, key, strategy = unpack(redis.call('HMGET', r.key, 'limit', 'limit_key', 'limit_strategy'))
  local running = r.root .. 'runs:limit:' .. key
  while redis.call('ZCARD', running) >= tonumber(limit) do
    local oldest = redis.call('ZRANGE', running, 0, 0)[1]
    local other = runs.open(r.root .. 'run:' .. oldest)
    if not other or other.over then
      redis.call('ZREM', running, oldest)
    elseif strategy == 'queue' then
      runs.set_run(r, 'queued')
      redis.call('RPUSH', r.root .. 'runs:queued:' .. key, r.uid)
      return false
    elseif strategy == 'cancel_newest' then
      redis.call('HSET', r.key, 'because', 'limit reached')
      runs.cancel(r, false)
      return false
    else
      redis.call('ZREM', running, oldest)
      redis.call('HSET', other.key, 'because', 'a newer run began')
      other.left = runs.OTHERS
      runs.cancel(other, other.on_failure == 'compensate')
      runs.close(other)
    end
  end
  redis.call('ZADD', running, now_ms(), r.uid)
  return true
end

-- The run has ended: those that are queued under its key begin. After some in a row, the sweep goes on with the next one.
runs.leave_limit = function(r, key)
  local running, queued = r.root .. 'runs:limit:' .. key, r.root .. 'runs:queued:' .. key
  if redis.call('ZREM', running, r.uid) == 0 then
    redis.call('LREM', queued, 0, r.uid)
    return
  end
  local limit = tonumber(redis.call('HGET', r.key, 'limit'))
  while redis.call('ZCARD', running) < limit do
    local uid = redis.call('LPOP', queued)
    if not uid then return end
    local other = runs.open(r.root .. 'run:' .. uid)
    if other and other.state == 'queued' then
      redis.call('ZADD', running, now_ms(), uid)
      runs.set_run(other, 'running')
      runs.plan_work(other, 'd', 'start')
      other.depth = (r.depth or 0) + 1
      other.left = other.depth > runs.DEPTH and 0 or r.left
      runs.close(other)
      r.left = math.min(r.left, other.left)
    end
  end
end
