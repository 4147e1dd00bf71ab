-- Adds agents to those that a run's steps may be placed with.
-- KEYS: run. ARGV: number of the placement, the agents as JSON {{agent, template, queue, level}, …}, number of a template, its
-- text, …
-- Returns 1 if they were added, 0 if the run is not kept any more, or knows one of them.
-- Costs: a command for each template; the caller bounds how many.
--- @include "mailbox_entry"
local templates = KEYS[1] .. ':templates'
local number, added = ARGV[1], cjson.decode(ARGV[2])
local FIRST_TEMPLATE = 3
local of = read_json(redis.call('HGET', templates, number) or '')
if not of then return 0 end
for _, one in ipairs(of.candidates) do
  for _, other in ipairs(added) do
    if one[1] == other[1] then return 0 end
  end
end
-- Written anew, so that an empty list is a list.
local candidates = {}
for _, one in ipairs(of.candidates) do candidates[#candidates + 1] = one end
for _, one in ipairs(added) do candidates[#candidates + 1] = one end
of.candidates = candidates
for at = FIRST_TEMPLATE, #ARGV, 2 do redis.call('HSET', templates, ARGV[at], ARGV[at + 1]) end
redis.call('HSET', templates, number, cjson.encode(of))
return 1
