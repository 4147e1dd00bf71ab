-- Deletes a mailbox; what still waited in it counts as cancelled.
-- KEYS: ledger, queues, delayed, bodies, bell, streams… ARGV: queue, '1' if it was somebody's reply queue
local left = redis.call('ZCARD', KEYS[3])
for k = 6, #KEYS do left = left + redis.call('XLEN', KEYS[k]) end
redis.call('DEL', unpack(KEYS, 3))
if ARGV[2] == '1' then
  redis.call('DEL', KEYS[1])
  redis.call('SREM', KEYS[2], ARGV[1])
elseif left > 0 then
  redis.call('HINCRBY', KEYS[1], 'cancelled', left)
end
return left
