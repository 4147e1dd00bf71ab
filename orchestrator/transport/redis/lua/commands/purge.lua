-- Drops messages that are not claimed, some at a time.
-- KEYS: ledger, delayed, bodies, the stream to drop from; without one, what is not yet due is dropped.
-- ARGV: group, most to drop, root, ms to keep outcomes.
-- Returns the number of dropped messages.
-- Costs: at most 1 MB and one message, which are read and decoded.
--- @include "mailbox_entry"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "drop_messages"
local ledger, delayed, bodies, stream = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local root, ttl_ms = ARGV[3], ARGV[4]
local most = tonumber(ARGV[2])
local function drop(m, d)
  drop_message(root, ledger, m, d, 'purge', ttl_ms)
end
local dropped
if stream then
  dropped = drop_waiting(stream, unread_from(stream), most, function(entry)
    redis.call('XDEL', stream, entry[1])
    drop(fields(entry))
  end)
else
  dropped = drop_delayed(delayed, bodies, most, drop)
end
if dropped > 0 then add_count(ledger, 'cancelled', dropped) end
return with_events(dropped)
