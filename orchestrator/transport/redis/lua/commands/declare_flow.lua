-- Makes a mailbox' flow control known. Who serves the mailbox has the last word; a sender's word counts until then.
-- KEYS: flow. ARGV: root, '1' from who serves it, '1' with a bound, '1' with a breaker, field, value, …
--- @include "mailbox_entry"
even_when_full(table.remove(ARGV, 1) .. 'queues')
if ARGV[1] == '0' and redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if ARGV[2] == '0' then redis.call('HDEL', KEYS[1], 'limit', 'overflow', 'block_ms', 'warn_from', 'warned') end
if ARGV[3] == '0' then
  redis.call('HDEL', KEYS[1], 'failures', 'window_ms', 'open_ms', 'phase', 'failed_ms', 'until_ms')
end
if ARGV[2] == '0' and ARGV[3] == '0' then redis.call('DEL', KEYS[1]) else redis.call('HSET', KEYS[1], unpack(ARGV, 4)) end
return 1
