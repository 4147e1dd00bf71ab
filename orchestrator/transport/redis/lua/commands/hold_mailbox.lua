-- Puts a mailbox on hold for the incarnations of one host: they claim nothing, until it is released, or another host's claims.
-- KEYS: flow, leases. ARGV: root, queue, host as in the ids of incarnations.
-- Returns 1; 0 if a living incarnation serves the mailbox, which is not put on hold then.
-- Costs: five commands, and three for each 20 dead incarnations that are still known to serve the mailbox.
--- @include "mailbox_entry"
--- @include "script_events"
--- @include "is_served"
local flow, leases = KEYS[1], KEYS[2]
local root, queue, host = ARGV[1], ARGV[2], ARGV[3]
even_when_full(leases)
if is_served(leases, root .. 'servers:' .. queue) then return with_events(0) end
if redis.call('HGET', flow, 'on_hold') ~= host then
  redis.call('HSET', flow, 'on_hold', host)
  emit_event('on_hold', queue, host)
end
return with_events(1)
