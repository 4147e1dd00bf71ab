-- Adds schedules, or changes their definitions.
-- KEYS: schedules, leases, hash of last publishes.
-- ARGV: root, most schedules there may be, most entries of the history, token of this call, then for each: id, owner or '', mode ('add': must not exist; 'keep': what exists stays; 'replace'),
-- revision of the one that exists or '' if there is none or its state cannot be read, definition, when it is due next or '' if never, '1' if only a scheduler whose code declares it may fire
-- it; the decision (see schedule_changes.lua).
-- A definition that is the same changes nothing, unless it was set aside as broken.
-- Returns {revision, status} for each: 'added', 'changed', 'kept', 'exists', 'stale', 'full', 'dead' (its owner is). A repeated call returns
-- its first answer.
-- Costs: at most 50 schedules, which the caller sees to.
--- @include "recorded_answers"
--- @include "schedules"
local definitions, leases, publishes = KEYS[1], KEYS[2], KEYS[3]
local root, most, most_entries, token = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local FIRST, FIXED = 5, 7
local answered = recorded_answer(publishes, token)
if answered then return cjson.decode(answered) end
local totals, is_changed = {}, false

local function declare(at)
  local id, owner, mode, rev, definition, due, bound = unpack(ARGV, at, at + 6)
  local incarnation = owner:match('^i:(.*)$')
  if incarnation and not redis.call('ZSCORE', leases, incarnation) then return {0, 'dead'} end
  local state = root .. 'schedule:' .. id
  local before = redis.call('HGET', definitions, id)
  local f = redis.pcall('HMGET', state, 'r', 'o', 'b', 'p')
  local is_none = f.err
  if is_none then f = {} end
  local now_rev = tonumber(f[1] or 0) or 0
  if before then
    if mode == 'add' then return {now_rev, 'exists'} end
    local is_same = before == definition and (f[2] or '') == owner and (f[3] or '') == bound
    if mode == 'keep' or is_same and rev ~= '' and redis.pcall('HEXISTS', root .. 'schedules:broken', id) ~= 1 then return {now_rev, 'kept'} end
    if rev == '' then
      -- Nothing can be kept of what cannot be read.
      if f[2] then schedules.disown(root, f[2], id) end
      redis.call('DEL', state)
      f = {}
    elseif rev ~= (f[1] or '0') then
      return {now_rev, 'stale'}
    end
  elseif redis.call('HLEN', definitions) >= most then
    return {0, 'full'}
  elseif is_none then
    redis.call('DEL', state)
  end
  redis.call('HSET', definitions, id, definition)
  redis.pcall('HDEL', root .. 'schedules:broken', id)
  now_rev = redis.call('HINCRBY', state, 'r', 1)
  if f[2] and f[2] ~= owner then schedules.disown(root, f[2], id) end
  if owner ~= '' then
    redis.call('HSET', state, 'o', owner)
    schedules.own(root, owner, id)
  else
    redis.call('HDEL', state, 'o')
  end
  if bound == '1' then redis.call('HSET', state, 'b', '1') else redis.call('HDEL', state, 'b') end
  schedules.write(root, most_entries, totals, state, id, at + FIXED)
  redis.call('ZREM', schedules.due_set(root, bound == '1' and '' or '1'), id)
  local set = schedules.due_set(root, bound)
  if due == '' or f[4] then redis.call('ZREM', set, id) else redis.call('ZADD', set, due, id) end
  is_changed = true
  return {now_rev, before and 'changed' or 'added'}
end

local out = {}
local at = FIRST
while at <= #ARGV do
  out[#out + 1] = declare(at)
  at = schedules.after_decision(at + FIXED)
end
schedules.add_totals(root, totals)
if is_changed then
  schedules.ring(root)
  record_answer(publishes, token, cjson.encode(out))
end
return with_events(out)
