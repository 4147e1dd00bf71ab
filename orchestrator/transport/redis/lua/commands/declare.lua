-- Makes a mailbox known, and its streams readable.
-- KEYS: queues, streams… ARGV: queue, '1' to list it, group, ms to live or 0.
-- Returns 1.
-- Costs: two commands a stream.
--- @include "mailbox_entry"
local queues = KEYS[1]
local queue, is_listed, group, ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local FIRST_STREAM = 2
even_when_full(queues)
if is_listed == '1' then redis.call('SADD', queues, queue) end
for k = FIRST_STREAM, #KEYS do
  -- Fails where the group exists already, which is as good.
  redis.pcall('XGROUP', 'CREATE', KEYS[k], group, '0', 'MKSTREAM')
  if ttl_ms ~= '0' then redis.call('PEXPIRE', KEYS[k], ttl_ms) end
end
return 1
