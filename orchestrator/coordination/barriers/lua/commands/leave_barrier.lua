-- Breaks a generation, because a party waits no more.
-- KEYS: leases. ARGV: root, name, generation, party, token by which it waited, why.
-- Returns as arrive_at_barrier; a generation that has ended meanwhile stays as it is.
-- Costs: as arrive_at_barrier.
--- @include "barriers"
local leases = KEYS[1]
local root, name, generation, party, token, why = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
even_when_full(leases)
local b = open_barrier(root, name)
catch_up(b)
local known = redis.call('HGET', b.waiting, party)
if b.due > 0 and generation == b.generation and known and cjson.decode(known).k == token then
  break_generation(b, why, party)
  keep(b)
end
return with_events(reply_about(b, generation, party))
