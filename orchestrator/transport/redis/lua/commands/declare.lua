-- Makes a mailbox known, and its streams readable.
-- KEYS: queues, streams… ARGV: queue, '1' to list it, group, ms to live or 0
--- @include "mailbox_entry"
even_when_full(KEYS[1])
if ARGV[2] == '1' then redis.call('SADD', KEYS[1], ARGV[1]) end
for k = 2, #KEYS do
  -- Fails where the group exists already, which is as good.
  redis.pcall('XGROUP', 'CREATE', KEYS[k], ARGV[3], '0', 'MKSTREAM')
  if ARGV[4] ~= '0' then redis.call('PEXPIRE', KEYS[k], ARGV[4]) end
end
return 1
