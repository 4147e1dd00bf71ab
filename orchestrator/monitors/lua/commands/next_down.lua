-- Reads the first DOWN in a session's inbox, which stays there until the next call names it as arrived.
-- KEYS: inbox. ARGV: root, session, the ref that has arrived or ''.
-- Returns {1 while the session lives, the DOWN if there is one}; {-1} to ask again after MOST_PASSED flushed ones.
-- Costs: at most MOST_PASSED times three commands.
--- @include "monitors"
local inbox = KEYS[1]
local root, session, arrived = ARGV[1], ARGV[2], ARGV[3]
local MOST_PASSED = 1000
local function ref_of(text) return string.match(text, '^{"ref":(%d+),') end
local alive = redis.call('ZSCORE', root .. 'leases', session) and 1 or 0
for _ = 1, MOST_PASSED do
  local text = redis.call('LINDEX', inbox, 0)
  if not text then return {alive} end
  local ref = ref_of(text)
  if ref ~= arrived and redis.call('EXISTS', root .. 'flushed:' .. ref) == 0 then return {alive, text} end
  redis.call('LPOP', inbox)
end
return {-1}
