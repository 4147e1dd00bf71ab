-- Gives a chore that several processes share to the first one that asks when it is due.
-- KEYS: the chore's mark. ARGV: ms until it is due again.
-- Returns 1 if the caller has to do it, else 0.
-- Costs: two commands.
--- @include "mailbox_entry"
local mark = KEYS[1]
local wait_ms = ARGV[1]
even_when_full(mark)
return redis.call('SET', mark, '1', 'NX', 'PX', wait_ms) and 1 or 0
