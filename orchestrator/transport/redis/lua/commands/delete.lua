-- Deletes a mailbox, some messages at a time. Each ends as cancelled. So does one that a worker holds: its settlement finds
-- nothing, and counts as duplicated.
-- KEYS: ledger, queues, delayed, bodies, bell, streams…
-- ARGV: queue, '1' if it is a reply queue, group, most to drop, root, ms to keep outcomes, number of the stream to drop from; 0
-- for what is not yet due.
-- Returns the number of dropped messages. Once nothing is left the mailbox is gone.
-- Costs: at most 1 MB and one message, which are read and decoded.
--- @include "mailbox_entry"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "drop_messages"
local ledger, queues, delayed, bodies = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local queue, group, root, ttl_ms = ARGV[1], ARGV[3], ARGV[5], ARGV[6]
local is_reply, most, number = ARGV[2] == '1', tonumber(ARGV[4]), tonumber(ARGV[7])
local FIRST_DELETED, FIRST_STREAM = 3, 6
even_when_full(queues)
local function drop(m, d, held)
  drop_message(root, ledger, m, d, 'mailbox deleted', ttl_ms, held)
end
local dropped
if number > 0 then
  local stream = KEYS[FIRST_STREAM - 1 + number]
  dropped = drop_waiting(stream, '-', most, function(entry)
    local held = redis.pcall('XACK', stream, group, entry[1])
    redis.call('XDEL', stream, entry[1])
    local m, d = fields(entry)
    drop(m, d, held == 1)
  end)
else
  dropped = drop_delayed(delayed, bodies, most, drop)
end
if dropped > 0 and not is_reply then add_count(ledger, 'cancelled', dropped) end
local empty = redis.call('ZCARD', delayed) == 0
for k = FIRST_STREAM, #KEYS do empty = empty and redis.call('XLEN', KEYS[k]) == 0 end
if empty then
  redis.call('DEL', unpack(KEYS, FIRST_DELETED))
  if is_reply then
    redis.call('DEL', ledger)
    redis.call('SREM', queues, queue)
  end
end
return with_events(dropped)
