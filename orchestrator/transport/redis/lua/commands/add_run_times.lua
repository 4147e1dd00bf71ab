-- Adds to the counts of how long attempts took, on the day that it is by Redis' clock.
-- KEYS: none. ARGV: prefix of all names, days for which counts are kept, task, bucket, count, task, bucket, count, …
-- Returns the day, since 1970.
-- Costs: two commands for each count.
--- @include "clock"
--- @include "counters"
local root, days = ARGV[1], tonumber(ARGV[2])
local DAY_MS = 86400000
local day = math.floor(now_ms() / DAY_MS)
for i = 3, #ARGV, 3 do
  local counts = root .. 'durations:' .. day .. ':' .. ARGV[i]
  add_count(counts, ARGV[i + 1], ARGV[i + 2])
  redis.call('PEXPIREAT', counts, (day + days) * DAY_MS)
end
return day
