-- The holder itself gives messages back: it stops, was told to requeue, or lost the pool child that ran them.
-- KEYS: stream.
-- ARGV: root, queue, group, max deaths, ms to keep outcomes, reason of death or '', by, how it ran, ids…
-- How it ran: '1' alone, '0' beside others or not at all; 'stopping' or 'unattributed' if its pool process ended while it
-- ran, of which nobody died: the worker stops, or a stop signal came from somebody; 'undelivered' if it was claimed ahead and
-- no more.
--- @include "mailbox_entry"
--- @include "endings"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "breaker"
--- @include "dead_letters"
--- @include "cancel_mark"
--- @include "requeue"
even_when_full(ARGV[1] .. 'queues')
local ran = ARGV[8]
local interrupted = ran == 'stopping' or ran == 'unattributed'
local result = {}
for i = 9, #ARGV do
  local death = nil
  if ARGV[6] ~= '' then
    death = {reason = ARGV[6], by = ARGV[7], at = now_ms(), alone = ran == '1' or nil, child = true}
  end
  result[#result + 1] = requeue(ARGV[1], ARGV[2], KEYS[1], ARGV[3], ARGV[i], death, ran == 'unattributed' and 1 or 0,
    tonumber(ARGV[4]), ARGV[5], interrupted, ran == 'undelivered') or 'gone'
end
return answer(result)
