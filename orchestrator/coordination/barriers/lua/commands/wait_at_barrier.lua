-- Asks what has become of a generation; a party's process waits for it from now on.
-- KEYS: leases, barriers of the owner. ARGV: root, name, generation, party, token by which to wake it, owner, entry of the attempt or ''.
-- Returns {'waiting', generation, ms left, parties, slots of the owner's worker, messages it runs}, or as arrive_at_barrier.
-- Costs: as arrive_at_barrier; once a second 200 of those who wait are looked up.
--- @include "barriers"
local leases, owned = KEYS[1], KEYS[2]
local root, name, generation, party, token, owner, entry = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6], ARGV[7]
even_when_full(leases)
local b = open_barrier(root, name)
catch_up(b)
local reply = reply_about(b, generation, party)
if reply[1] == 'ended' then return with_events(reply) end
if not redis.call('ZSCORE', leases, owner) then return with_events({'gone'}) end
if reply[1] ~= 'waiting' then return with_events(reply) end
stop_waiting(b, party)
redis.call('HSET', b.waiting, party, cjson.encode({o = owner, e = entry, k = token}))
redis.call('SADD', owned, name)
local slots = redis.call('HMGET', root .. 'incarnation:' .. owner, 'concurrency', 'running')
reply[4], reply[5], reply[6] = b.parties, tonumber(slots[1] or 0), tonumber(slots[2] or 0)
return with_events(reply)
