-- Accepts a message that is due later.
-- KEYS: delayed, bodies, bell, ledger; outside of a batch also the hash of last publishes.
-- ARGV: member, message, delay in ms, ms that the queue lives unused (0: for ever), token of the publish (see
-- publish_dedup.py).
-- Returns the member; {'refused', …} by flow control. A repeated call accepts nothing, and returns the member.
-- Costs: one message; where the mailbox drops its oldest, at most 1 MB and one message more.
--- @include "mailbox_entry"
--- @include "needs_admission"
local delayed, bodies, bell, ledger, publishes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local member, message, delay_ms, expires_ms, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if publishes and is_repeated_publish(publishes, token) then return member end

local function accept()
  schedule(delayed, bodies, bell, member, message, now_ms() + tonumber(delay_ms))
  local lives = tonumber(expires_ms or 0)
  if lives == 0 then return count_accepted(ledger, 1) end
  -- An expiring queue has no ledger (see publish.lua). It lives until its last message has been due for that long.
  local last = tonumber(redis.call('ZRANGE', delayed, -1, -1, 'WITHSCORES')[2])
  for _, key in ipairs({delayed, bodies}) do redis.call('PEXPIREAT', key, string.format('%.0f', last + lives)) end
end

local flow = flow_of(ledger)
if not needs_admission(flow) then
  accept()
  return member
end

--- @include "script_events"
--- @include "outcome_hooks"
--- @include "admission"

local admission = admit(flow, 1, false, false, function() return message end)
if admission and admission.take == 0 then
  if admission.drop == 0 then
    if publishes then forget_publish(publishes, token) end
    return with_events(refused(admission))
  end
  count_accepted(ledger, 1)
  overflowed(admission, message)
  return with_events(member)
end
accept()
if admission then after_admission(admission) end
return with_events(member)
