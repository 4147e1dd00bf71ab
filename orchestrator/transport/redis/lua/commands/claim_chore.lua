-- Whether it is time again for a chore that is one of several processes'; who is told so does it.
-- KEYS: the chore's mark. ARGV: ms until it is time again
--- @include "mailbox_entry"
even_when_full(KEYS[1])
return redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1]) and 1 or 0
