-- Ends a scheduler's turn and what it declares, when it closes.
-- KEYS: the schedulers' turn, schedulers, what it declares. ARGV: scheduler.
-- Returns 1 if the turn was the caller's.
-- Costs: four commands.
--- @include "mailbox_entry"
local turn, schedulers, declares = KEYS[1], KEYS[2], KEYS[3]
local scheduler = ARGV[1]
even_when_full(turn)
redis.call('HDEL', schedulers, scheduler)
redis.call('DEL', declares)
if redis.call('HGET', turn, 'of') ~= scheduler then return 0 end
redis.call('HDEL', turn, 'of', 'until_ms')
return 1
