-- Requeues messages by their holder, which stops, was asked to requeue, or lost the pool process that ran them.
-- KEYS: stream.
-- ARGV: root, queue, group, max deaths, ms to keep outcomes, reason of death or '', by, how it ran, ids…
-- How it ran: '1' alone, '0' beside others or not at all; 'stopping' or 'unattributed' if its pool process ended while it ran
-- and no message is suspect: the worker stops, or an unknown process sent a stop signal; 'begun' if a pool has started on it and
-- the worker has cancelled or lost that run; 'undelivered' if no consumer was given it.
-- Returns for each id 'returned', 'cancelled', 'gone', or the reason of its dead letter.
-- Costs: what the messages weigh; callers name 1 MB and one message of them.
--- @include "mailbox_entry"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "requeue"
local stream = KEYS[1]
local root, queue, group, ttl_ms, reason, by = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[6], ARGV[7]
local ran = ARGV[8]
local max_deaths = tonumber(ARGV[4])
local FIRST_ID = 9
even_when_full(root .. 'queues')
local interrupted = ran == 'stopping' or ran == 'unattributed'
local result = {}
for i = FIRST_ID, #ARGV do
  local death = nil
  if reason ~= '' then
    death = {reason = reason, by = by, at = now_ms(), alone = ran == '1' or nil, child = true}
  end
  result[#result + 1] = requeue(root, queue, stream, group, ARGV[i], death, ran == 'unattributed' and 1 or 0,
    max_deaths, ttl_ms, interrupted, ran == 'undelivered', ran == 'begun') or 'gone'
end
return with_events(result)
