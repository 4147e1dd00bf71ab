-- Ends a sweeper's turn, so that the next sweep need not wait for it to run out.
-- KEYS: sweep. ARGV: turn.
-- Returns 0 if it is not the caller's turn any more.
-- Costs: two commands.
--- @include "mailbox_entry"
local sweep = KEYS[1]
local turn = ARGV[1]
even_when_full(sweep)
if redis.call('HGET', sweep, 'sweeps') ~= turn then return 0 end
return redis.call('HDEL', sweep, 'turn_of', 'turn_until_ms')
