-- Lets the next generation of a barrier begin; the present one breaks, if it goes on. If any generation is reset, other parties may use the
-- barrier from then on.
-- KEYS: leases, hash of last publishes. ARGV: root, name, the generation that is reset or 0 for whichever it is, token of this call.
-- Returns {1 if it was reset, messages left to send}; 1 to a repeated call, also if another one has reset it since.
-- Costs: as arrive_at_barrier.
--- @include "barriers"
--- @include "recorded_answers"
local leases, publishes = KEYS[1], KEYS[2]
local root, name, generation, token = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
if recorded_answer(publishes, token) then return {1, 0} end
even_when_full(leases)
local b = open_barrier(root, name)
catch_up(b)
local goes_on = b.broken ~= '' or b.due > 0
if generation > 0 and not (goes_on and generation == b.generation) or not goes_on and b.parties == 0 then
  return with_events({0, b.left or 0})
end
if b.due > 0 then break_generation(b, 'reset', '') end
redis.call('HDEL', b.state, 'b')
if generation == 0 then redis.call('HDEL', b.state, 'n', 'p', 'm') end
emit_event('barrier_reset', name, string.format('%.0f', b.generation))
keep(b)
record_answer(publishes, token, '1')
return with_events({1, b.left or 0})
