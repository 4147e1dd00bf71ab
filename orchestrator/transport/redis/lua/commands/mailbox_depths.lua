-- Counters and lengths of some mailboxes, read at one moment.
-- KEYS: queues (not read). ARGV: root, group, number of steps, steps…, queues…
-- Returns {{queue, ready, held, delayed, {counter, value, …}}, …}.
-- Costs: two commands a stream, so callers name at most 100 queues.
local root, group = ARGV[1], ARGV[2]
local steps = tonumber(ARGV[3])
local FIRST_STEP = 4
local out = {}
for q = FIRST_STEP + steps, #ARGV do
  local queue = ARGV[q]
  local length, held = 0, 0
  for s = FIRST_STEP, FIRST_STEP - 1 + steps do
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
