-- Takes out timers that are due; the caller acts on them, and puts back what it could not do.
-- KEYS: timers. ARGV: how many at most, ms for which they are the caller's.
-- Returns their members. One that the caller does not remove with ZREM is due again after that time.
-- Costs: one command for each.
--- @include "clock"
local timers, most, mine_ms = KEYS[1], ARGV[1], ARGV[2]
local now = now_ms()
local due = redis.call('ZRANGEBYSCORE', timers, '-inf', now, 'LIMIT', 0, most)
for _, member in ipairs(due) do redis.call('ZADD', timers, now + mine_ms, member) end
return due
