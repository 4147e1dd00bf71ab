-- Changes the state of a schedule, sets it aside, or removes it.
-- KEYS: its state, schedules, broken schedules; of a call that may be repeated also the hash of last publishes.
-- ARGV: root, most entries of the history, id, revision that it must have or '', action, why it is broken or '', when it is due next or '',
-- token of this call or ''; for 'change' the decision (see schedule_changes.lua).
-- 'change' pauses it, resumes it or moves its next time; 'set_aside' takes it out of what is due because it is broken, even if nothing else is left of
-- it; 'remove' ends it.
-- Returns {revision, status}: 'done', 'missing', 'stale'. A repeated call that was done is done.
-- Costs: a constant.
--- @include "recorded_answers"
--- @include "schedules"
local state, definitions, broken, publishes = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local root, most, id, rev, action, why, due, token = unpack(ARGV, 1, 8)
local FIRST = 9
local answered = publishes and recorded_answer(publishes, token)
if answered then return {tonumber(answered), 'done'} end
local f = redis.pcall('HMGET', state, 'r', 'b')
if f.err and action == 'change' then return f end
if action ~= 'set_aside' and not f[1] and redis.call('HEXISTS', definitions, id) == 0 and redis.pcall('HEXISTS', broken, id) ~= 1 then return {0, 'missing'} end
if rev ~= '' and rev ~= f[1] then return {tonumber(f[1] or 0), 'stale'} end
local totals = {}
if action == 'remove' then
  schedules.remove(root, id, totals, most)
elseif action == 'set_aside' then
  redis.call('ZREM', root .. 'schedules:due', id)
  redis.call('ZREM', root .. 'schedules:bound', id)
  schedules.write_shared(broken, 'HSET', id, why)
else
  local now_rev = redis.call('HINCRBY', state, 'r', 1)
  schedules.write(root, most, totals, state, id, FIRST)
  local set = schedules.due_set(root, f[2])
  if due == '' then redis.call('ZREM', set, id) else redis.call('ZADD', set, due, id) end
  schedules.ring(root)
  schedules.add_totals(root, totals)
  if publishes then record_answer(publishes, token, now_rev) end
  return with_events({now_rev, 'done'})
end
schedules.add_totals(root, totals)
if publishes then record_answer(publishes, token, 0) end
return with_events({0, 'done'})
