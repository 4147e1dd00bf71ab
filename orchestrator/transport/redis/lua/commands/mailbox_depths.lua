-- Counters and lengths of some mailboxes, read at one moment.
-- KEYS: queues (not read). ARGV: root, group, number of levels, levels…, queues…
-- Returns {{queue, ready, held, delayed, {counter, value, …}, 1 if it is on hold}, …}.
-- Costs: two commands a stream, so callers name at most 100 queues.
local root, group = ARGV[1], ARGV[2]
local levels = tonumber(ARGV[3])
local FIRST_LEVEL = 4
local out = {}
for q = FIRST_LEVEL + levels, #ARGV do
  local queue = ARGV[q]
  local length, held = 0, 0
  for s = FIRST_LEVEL, FIRST_LEVEL - 1 + levels do
    local stream = root .. 'q:' .. ARGV[s] .. ':' .. queue
    local there = redis.call('XLEN', stream)
    if there > 0 then
      local pending = redis.pcall('XPENDING', stream, group)
      length = length + there
      if not pending.err then held = held + pending[1] end
    end
  end
  out[#out + 1] = {queue, length - held, held, redis.call('ZCARD', root .. 'delayed:' .. queue),
    redis.call('HGETALL', root .. 'ledger:' .. queue), redis.call('HEXISTS', root .. 'flow:' .. queue, 'on_hold')}
end
return out
