-- An incarnation that was declared dead is not: its process says so. What was convicted by then stays convicted; from here
-- on that death counts against no message.
-- KEYS: disproved, deaths. ARGV: incarnation, days to remember it, field, value, … of the record of deaths
--- @include "mailbox_entry"
even_when_full(KEYS[1])
local now = now_ms()
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]) * 86400000)
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -10001)
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 1000, '*', unpack(ARGV, 3))
return 1
