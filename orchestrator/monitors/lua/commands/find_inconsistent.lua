-- Looks through some of all monitors for inconsistent ones: unreadable, or missing in a set.
-- KEYS: monitors. ARGV: root, cursor, about how many.
-- Returns {cursor, how many were looked at, ref, record, …}.
-- Costs: about as many monitors as asked for; callers ask for 500.
--- @include "monitors"
local monitors = KEYS[1]
local root, cursor, about = ARGV[1], ARGV[2], ARGV[3]
local scanned = redis.call('HSCAN', monitors, cursor, 'COUNT', about)
local out = {scanned[1], #scanned[2] / 2}
local listed = {}
local function named(set, id)
  local key = set .. '\n' .. id
  if listed[key] == nil then listed[key] = redis.call('SISMEMBER', root .. set, id) == 1 end
  return listed[key]
end
for i = 1, #scanned[2], 2 do
  local ref, record = scanned[2][i], scanned[2][i + 1]
  local m = parsed(record)
  local whole = m and named('monitor-owners', m.owner)
    and redis.call('SISMEMBER', root .. 'monitors-of:' .. m.owner, ref) == 1
  if whole then
    for _, incarnation in ipairs(m.left) do
      whole = whole and named('monitor-targets', incarnation)
        and redis.call('ZSCORE', root .. 'monitors-on:' .. incarnation, ref)
    end
  end
  if not whole then
    out[#out + 1] = ref
    out[#out + 1] = record
  end
end
return out
