-- Finds the runs whose steps are to be placed again: those with unplaced steps, and those with steps placed with an agent that is down.
-- KEYS: runs with unplaced steps, agents with which steps were placed. ARGV: root, how many runs at most.
-- Returns {uid, '', uid, the agent that is down, …}.
-- Costs: 100 agents, of each 20 of the incarnations that host it; the runs.
--- @include "clock"
--- @include "living_slots"
local unplaced, placed = KEYS[1], KEYS[2]
local root, most = ARGV[1], tonumber(ARGV[2])
local AGENTS = 100
local found, now = {}, now_ms()
for _, uid in ipairs(redis.call('ZRANGEBYSCORE', unplaced, '-inf', now, 'LIMIT', 0, most)) do
  found[#found + 1], found[#found + 2] = uid, ''
end
for _, agent in ipairs(redis.call('SRANDMEMBER', placed, AGENTS)) do
  local runs_of = root .. 'runs:placed:' .. agent
  if redis.call('EXISTS', runs_of) == 0 then
    redis.call('SREM', placed, agent)
  elseif living_slots(root, agent) == 0 then
    for _, uid in ipairs(redis.call('ZRANGEBYSCORE', runs_of, '-inf', now, 'LIMIT', 0, most)) do
      found[#found + 1], found[#found + 2] = uid, agent
    end
  end
end
return found
