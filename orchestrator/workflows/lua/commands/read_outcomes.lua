-- Reads outcomes of a run's steps, until those read have 1 MB.
-- KEYS: run. ARGV: steps… (at most 500)
-- Returns the outcomes of the first steps, '' for one that has none; at least one.
-- Costs: at most 500 outcomes; 1 MB and one outcome.
local MOST_BYTES = 1000000
local outcomes, found, bytes = KEYS[1] .. ':outcomes', {}, 0
for at, step in ipairs(ARGV) do
  found[at] = redis.call('HGET', outcomes, step) or ''
  bytes = bytes + #found[at]
  if bytes >= MOST_BYTES then break end
end
return found
