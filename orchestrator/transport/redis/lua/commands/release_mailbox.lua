-- Ends the hold of a mailbox, and wakes a reader.
-- KEYS: flow, doorbell. ARGV: queue, host that has put it on hold.
-- Returns 1; 0 if that host has not.
-- Costs: three commands.
--- @include "script_events"
local flow, bell = KEYS[1], KEYS[2]
local queue, host = ARGV[1], ARGV[2]
if redis.call('HGET', flow, 'on_hold') ~= host then return with_events(0) end
redis.call('HDEL', flow, 'on_hold')
redis.call('XADD', bell, 'MAXLEN', 4, '*', 'b', '1')
emit_event('released', queue, host)
return with_events(1)
