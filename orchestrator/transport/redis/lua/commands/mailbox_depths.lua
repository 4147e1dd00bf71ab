-- Counters and lengths of some mailboxes, those of all at one moment.
-- KEYS: queues (not read). ARGV: root, group, number of steps, steps…, queues…
-- Returns {{queue, ready, held, delayed, {counter, value, …}}, …}
-- Costs: two commands a stream, so callers name at most 100 queues.
--- @include "mailbox_entry"
local root, group, steps = ARGV[1], ARGV[2], tonumber(ARGV[3])
local out = {}
for q = 4 + steps, #ARGV do
  local queue = ARGV[q]
  local length, held = 0, 0
  for s = 4, 3 + steps do
    local stream = root .. 'q:' .. ARGV[s] .. ':' .. queue
    local there = redis.call('XLEN', stream)
    if there > 0 then
      local pending = redis.pcall('XPENDING', stream, group)
      length = length + there
      if not pending.err then held = held + pending[1] end
    end
  end
  out[#out + 1] = {queue, length - held, held, redis.call('ZCARD', root .. 'delayed:' .. queue),
    redis.call('HGETALL', root .. 'ledger:' .. queue)}
end
return out
