-- Records that an incarnation that was declared dead is alive, by its own word. A dead letter that this death has made stays
-- one; from here on the death counts against no message.
-- KEYS: disproved, deaths. ARGV: incarnation, days to remember it, field, value, … of the record of deaths.
-- Returns 1.
-- Costs: four commands.
--- @include "mailbox_entry"
local disproved, deaths = KEYS[1], KEYS[2]
local incarnation, days = ARGV[1], ARGV[2]
local FIRST_FIELD = 3
even_when_full(disproved)
local now = now_ms()
redis.call('ZADD', disproved, now, incarnation)
redis.call('ZREMRANGEBYSCORE', disproved, '-inf', now - tonumber(days) * 86400000)
redis.call('ZREMRANGEBYRANK', disproved, 0, -10001)
redis.call('XADD', deaths, 'MAXLEN', '~', 1000, '*', unpack(ARGV, FIRST_FIELD))
return 1
