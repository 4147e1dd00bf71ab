-- Looks at the first DOWN in a session's inbox, which stays there until the next call says that it has arrived.
-- KEYS: inbox. ARGV: root, session, the ref that has arrived or ''
-- Returns {1 while the session lives, the DOWN if there is one}; {-1} if it has passed so many that nobody wants any more
-- that it is to be asked again
-- Costs: at most MOST_PASSED times three commands.
--- @include "monitors"
local MOST_PASSED = 1000
local function ref_of(text) return string.match(text, '^{"ref":(%d+),') end
local alive = redis.call('ZSCORE', ARGV[1] .. 'leases', ARGV[2]) and 1 or 0
for _ = 1, MOST_PASSED do
  local text = redis.call('LINDEX', KEYS[1], 0)
  if not text then return {alive} end
  local ref = ref_of(text)
  if ref ~= ARGV[3] and redis.call('EXISTS', ARGV[1] .. 'flushed:' .. ref) == 0 then return {alive, text} end
  redis.call('LPOP', KEYS[1])
end
return {-1}
