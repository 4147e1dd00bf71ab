-- A sweep is over: the next one need not wait for the turn to run out. KEYS: sweep. ARGV: turn
--- @include "mailbox_entry"
even_when_full(KEYS[1])
if redis.call('HGET', KEYS[1], 'sweeps') ~= ARGV[1] then return 0 end
return redis.call('HDEL', KEYS[1], 'turn_of', 'turn_until_ms')
