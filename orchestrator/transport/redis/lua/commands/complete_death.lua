-- Completes the record of a death that its heart or a sweep has found before its parent could report how the process had ended. Who
-- found it and when, and what became of its messages, stays as it is.
-- KEYS: deaths, incarnation, dying. ARGV: id, reason, by, error.
-- Returns 0 if nothing is changed: no death of this incarnation is on record, or its record has the way in which it has ended.
-- Else {reason as recorded, 1 if it may still hold messages, messages requeued so far, dead letters made of them}. The last two are -1
-- if its own record is deleted, as these counts are then, too.
-- Costs: 1,000 entries of the record of deaths; six commands.
--- @include "mailbox_entry"
local deaths, incarnation_key, dying = KEYS[1], KEYS[2], KEYS[3]
local id, reason, by, error = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local MOST_DEATHS = 1000
-- Reasons by which only the fact of its end is known.
local UNKNOWN_END = {killed = true, oom = true}

local function last_death()
  local found = redis.pcall('XREVRANGE', deaths, '+', '-', 'COUNT', MOST_DEATHS)
  for _, entry in ipairs(found) do
    -- Each entry begins with this field.
    if entry[2][1] == 'incarnation' and entry[2][2] == id then return entry[1], entry[2] end
  end
end

local entry, row = last_death()
if not entry then return 0 end
local known = {}
for i = 1, #row, 2 do known[row[i]] = row[i + 1] end
if not UNKNOWN_END[known.reason] or known.error ~= '' then return 0 end
-- A parent that cannot read the kernel's log sees only the signal. Whoever has found the OOM kill has counted it.
if known.reason == 'oom' and reason == 'killed' then reason = 'oom' end
even_when_full(deaths)
-- An entry cannot be changed, so another one takes its place, with the time of the first.
local completed = {'incarnation', id, 'at_ms', entry:match('^%d+'), 'completed_by', by}
known.incarnation, known.reason, known.error = nil, reason, error
for name, value in pairs(known) do
  completed[#completed + 1] = name
  completed[#completed + 1] = value
end
redis.call('XADD', deaths, 'MAXLEN', '~', MOST_DEATHS, '*', unpack(completed))
redis.call('XDEL', deaths, entry)
-- Its record is deleted once all that it held is requeued.
local left = redis.pcall('HMGET', incarnation_key, 'reason', 'requeued', 'dead_lettered')
if not left[1] then return {reason, 0, -1, -1} end
redis.call('HSET', incarnation_key, 'reason', reason)
local may_hold = redis.call('ZSCORE', dying, id) and 1 or 0
return {reason, may_hold, tonumber(left[2]) or 0, tonumber(left[3]) or 0}
