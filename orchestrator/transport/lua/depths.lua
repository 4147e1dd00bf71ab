-- Every mailbox' counters and lengths at one moment.
-- KEYS: queues. ARGV: root, group, steps…
-- Returns {{queue, ready, held, delayed, {counter, value, …}}, …}
local out = {}
for _, queue in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local length, held = 0, 0
  for s = 3, #ARGV do
    local stream = ARGV[1] .. 'q:' .. ARGV[s] .. ':' .. queue
    length = length + redis.call('XLEN', stream)
    local pending = redis.pcall('XPENDING', stream, ARGV[2])
    if not pending.err then held = held + pending[1] end
  end
  out[#out + 1] = {queue, length - held, held, redis.call('ZCARD', ARGV[1] .. 'delayed:' .. queue),
    redis.call('HGETALL', ARGV[1] .. 'ledger:' .. queue)}
end
return out
