-- Stages a slice of a distribution's items. Nobody sees them before commit_items; unless that comes, they expire.
-- KEYS: staged items. ARGV: number of items before this slice, ms that the staged are kept, then of each item: level and queue (a
-- stream's name without its beginning), message.
-- Returns 1; 0 if items before this slice are not there any more. A repeated call adds nothing.
-- Costs: 200 items and 1 MB, which the caller sees to.
local staged = KEYS[1]
local before, keep_ms = tonumber(ARGV[1]), ARGV[2]
local FIRST, PER_ITEM = 3, 2
local length = redis.call('LLEN', staged) / PER_ITEM
if length < before then return 0 end
if length == before then redis.call('RPUSH', staged, unpack(ARGV, FIRST)) end
redis.call('PEXPIRE', staged, keep_ms)
return 1
