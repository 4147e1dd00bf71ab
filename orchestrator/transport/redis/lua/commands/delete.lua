-- Deletes a mailbox, some messages at a time. Each ends as cancelled, also one that a worker holds: that worker's end of
-- it finds nothing, and counts as duplicated.
-- KEYS: ledger, queues, delayed, bodies, bell, streams…
-- ARGV: queue, '1' if it was somebody's reply queue, group, most to drop, root, ms to keep outcomes, number of the stream to
--   drop from; 0 for what is not yet due
-- Returns how many were dropped. Once nothing is left the mailbox is gone.
-- Costs: at most 1 MB and one message, which are read and decoded.
--- @include "mailbox_entry"
--- @include "endings"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "drop_messages"
local ledger, queues, delayed, bodies = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local queue, is_reply, group, most = ARGV[1], ARGV[2] == '1', ARGV[3], tonumber(ARGV[4])
local root, ttl_ms, number = ARGV[5], ARGV[6], tonumber(ARGV[7])
even_when_full(queues)
local function drop(m, d, held)
  drop_message(root, ledger, m, d, 'mailbox deleted', ttl_ms, held)
end
local dropped
if number > 0 then
  local stream = KEYS[5 + number]
  dropped = drop_waiting(stream, '-', most, function(entry)
    local held = redis.pcall('XACK', stream, group, entry[1])
    redis.call('XDEL', stream, entry[1])
    local m, d = fields(entry)
    drop(m, d, held == 1)
  end)
else
  dropped = drop_delayed(delayed, bodies, most, drop)
end
if dropped > 0 and not is_reply then redis.call('HINCRBY', ledger, 'cancelled', dropped) end
local empty = redis.call('ZCARD', delayed) == 0
for k = 6, #KEYS do empty = empty and redis.call('XLEN', KEYS[k]) == 0 end
if empty then
  redis.call('DEL', unpack(KEYS, 3))
  if is_reply then
    redis.call('DEL', ledger)
    redis.call('SREM', queues, queue)
  end
end
return answer(dropped)
