-- Puts a mailbox on hold for the incarnations of one host: they claim nothing, until it is released, or another host's claims.
-- KEYS: flow, leases. ARGV: root, queue, host as in the ids of incarnations.
-- Returns 1; 0 if a living incarnation serves the mailbox, which is not put on hold then.
-- Costs: one command for each living incarnation, at most 1,000.
--- @include "mailbox_entry"
--- @include "script_events"
local flow, leases = KEYS[1], KEYS[2]
local root, queue, host = ARGV[1], ARGV[2], ARGV[3]
even_when_full(leases)
for _, id in ipairs(redis.call('ZRANGE', leases, 0, 999)) do
  local served = queues_in(redis.call('HGET', root .. 'incarnation:' .. id, 'queues') or '[]')
  for _, name in ipairs(served or {}) do
    if name == queue then return with_events(0) end
  end
end
if redis.call('HGET', flow, 'held') ~= host then
  redis.call('HSET', flow, 'held', host)
  emit_event('held', queue, host)
end
return with_events(1)
