-- Lets the next generation of a barrier begin; the present one breaks, if it goes on. If any generation is reset, other parties may use the
-- barrier from then on.
-- KEYS: leases. ARGV: root, name, token of the call, the generation that is reset or 0 for whichever it is.
-- Returns {1 if it was reset, messages left to send}; 1 for a repeated call, with the same token.
-- Costs: as arrive_at_barrier.
--- @include "barriers"
local leases = KEYS[1]
local root, name, token, generation = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
even_when_full(leases)
local b = open_barrier(root, name)
if redis.call('HGET', b.state, 'r') == token then return {1, 0} end
catch_up(b)
local goes_on = b.broken ~= '' or b.due > 0
if generation > 0 and not (goes_on and generation == b.generation) or not goes_on and b.parties == 0 then
  return with_events({0, b.left or 0})
end
redis.call('HSET', b.state, 'r', token)
if b.due > 0 then break_generation(b, 'reset', '') end
redis.call('HDEL', b.state, 'b')
if generation == 0 then redis.call('HDEL', b.state, 'n', 'p', 'm') end
emit_event('barrier_reset', name, string.format('%.0f', b.generation))
keep(b)
return with_events({1, b.left or 0})
