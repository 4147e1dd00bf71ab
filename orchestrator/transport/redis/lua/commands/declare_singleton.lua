-- Declares a singleton again for a worker that campaigns for it, and finds living workers that host its agent without declaring it.
-- KEYS: flow. ARGV: root, election.
-- Returns the incarnations of at most 100 such workers.
-- Costs: four commands, and two for each of at most 1,000 workers that host the agent; where nobody had declared it, one for each
-- living worker.
--- @include "singletons"
--- @include "wake_readers"
local flow = KEYS[1]
local root, election = ARGV[1], ARGV[2]
if redis.call('HGET', flow, 'singleton') ~= election then
  even_when_full(root .. 'queues')
  redis.call('HSET', flow, 'singleton', election, 'singleton_ms', now_ms())
  wake_readers(root, flow:match('orc:flow:(.*)$'))
end
local differing = {}
each_host(root, election, function(incarnation, declares)
  if not declares then differing[#differing + 1] = incarnation end
  return #differing >= 100
end)
return differing
