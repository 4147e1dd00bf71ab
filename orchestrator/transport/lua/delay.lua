-- Accepts a message that is due later.
-- KEYS: delayed, bodies, bell, ledger. ARGV: member, message, delay in ms
-- Asked twice, because the first answer was lost: it is accepted once.
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return ARGV[1] end
schedule(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], now_ms() + tonumber(ARGV[3]))
redis.call('HINCRBY', KEYS[4], 'accepted', 1)
return ARGV[1]
