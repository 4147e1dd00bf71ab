-- Puts accepted items of a distribution into their mailboxes, from the first on. Their admission is not asked for again.
-- KEYS: staged items, timers. ARGV: root, the distribution's id, most items.
-- Returns how many are left. Whoever calls it next goes on.
-- Costs: the items, of which there are 200 and 1 MB at most; and one more, whatever its size.
--- @include "mailbox_entry"
local staged, timers = KEYS[1], KEYS[2]
local root, id, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local PER_ITEM = 2
-- Only one that is accepted has a timer.
if not redis.call('ZSCORE', timers, 'items:' .. id) then return 0 end
even_when_full(timers)
local taken, bytes, queues = 0, 0, {}
while taken < most and bytes < MOST_BYTES do
  local count = taken == 0 and 1 or math.min(next_count(taken, bytes), most - taken)
  local found = redis.call('LRANGE', staged, PER_ITEM * taken, PER_ITEM * (taken + count) - 1)
  for at = 1, #found, PER_ITEM do
    local place, message = found[at], found[at + 1]
    put(root .. 'q:' .. place, message)
    local queue = place:match('^[^:]*:(.*)$')
    queues[queue] = (queues[queue] or 0) + 1
    bytes, taken = bytes + #message, taken + 1
  end
  if #found < PER_ITEM * count then break end
end
for queue, accepted in pairs(queues) do count_accepted(root .. 'ledger:' .. queue, accepted) end
redis.call('LTRIM', staged, PER_ITEM * taken, -1)
local left = redis.call('LLEN', staged) / PER_ITEM
if left == 0 then redis.call('ZREM', timers, 'items:' .. id) end
return left
