-- Accepts a request whose reply is put where it is wanted by the script that ends it (see ask_ends.lua).
-- KEYS: stream, ledger, the delivery's hooks, the ask, timers, counters of calls, hash of last publishes, the mailbox' bulkhead.
-- ARGV: message, the delivery's id, the ask's id, token of the publish (see publish_dedup.py), kind, how many requests may be in flight
-- (0: any number), for how many ms one more waits, how many of these are left, then names and values of the ask's record…
-- Kinds: `ask`; `call`, which adds to the budget of retries and hedges; `retry` and `hedge`, which take from it. A `hedge` is one more copy
-- of an open ask's request, and has no fields.
-- Returns the delivery's id; {'refused', …} by flow control or the bulkhead, with the ms to sleep if it waits; {'not sent', 'budget' or 'ended'}. A repeated call returns
-- the id again.
-- Costs: one message and the text of the reply; where the mailbox drops its oldest, at most 1 MB and one message more.
--- @include "clock"
--- @include "needs_admission"
local stream, ledger, hooks, ask, timers, calls, publishes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local bulkhead = KEYS[8]
local message, delivery, id, token, kind = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local most_in_flight, wait_ms, left_ms = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local FIRST_FIELD = 9
-- As is_repeated_publish() in mailbox_entry.lua.
local connection = token:sub(1, 16)
local last = redis.call('HGET', publishes, connection)
if last == token then return delivery end
redis.call('HSET', publishes, connection, token)
if not last then redis.call('PEXPIRE', publishes, 900000) end
local flow = ledger:gsub('orc:ledger:', 'orc:flow:', 1)
local is_bounded = needs_admission(flow)
if kind == 'ask' and not is_bounded and most_in_flight == 0 then
  -- Most asks. This does the same as the rest of the script, without defining its functions.
  local place = stream .. '\n' .. redis.call('XADD', stream, '*', 'm', message) .. '\n' .. ledger
  redis.call('HSET', ask, 'calls', calls, 'copy:' .. delivery, place, unpack(ARGV, FIRST_FIELD))
  for at = FIRST_FIELD, #ARGV, 2 do
    if ARGV[at] == 'timeout_ms' then redis.call('ZADD', timers, now_ms() + tonumber(ARGV[at + 1]), 'ask:' .. id) end
  end
  redis.pcall('HINCRBY', calls, 'asked', 1)
  redis.call('HSET', hooks, 'ask', ask)
  local accepted = redis.pcall('HINCRBY', ledger, 'accepted', 1)
  if type(accepted) == 'table' then

--- @include "count_or_undo"

    accepted = count_or_undo(ledger, 'accepted', 1, stream, accepted.err)
  end
  if accepted == 1 then
    local root, queue = ledger:match('^(.-orc:)ledger:(.*)$')
    redis.call('SADD', root .. 'queues', queue)
  end
  return delivery
end

--- @include "mailbox_entry"
--- @include "call_budget"
--- @include "bulkhead"
local why_not
if kind == 'hedge' and redis.call('EXISTS', ask) == 0 then why_not = 'ended' end
if not why_not and (kind == 'hedge' or kind == 'retry') and not has_call_budget(calls) then why_not = 'budget' end
if why_not then
  forget_publish(publishes, token)
  if most_in_flight > 0 then leave_line(bulkhead, id) end
  return {'not sent', why_not}
end
local in_flight = most_in_flight > 0 and full_bulkhead(bulkhead, most_in_flight, id, wait_ms, left_ms)
if in_flight then
  forget_publish(publishes, token)
  local sleep_ms = wait_ms == 0 and 0 or wait_for_bulkhead(bulkhead, id, wait_ms, left_ms)
  return {'refused', 0, {'bulkhead', tostring(in_flight), tostring(most_in_flight), tostring(wait_ms), tostring(sleep_ms)}}
end

local function begin_ask()
  if kind == 'hedge' then
    add_count(calls, 'hedged', 1)
  else
    redis.call('HSET', ask, 'calls', calls, unpack(ARGV, FIRST_FIELD))
    local timeout_ms = tonumber(redis.call('HGET', ask, 'timeout_ms'))
    redis.call('ZADD', timers, now_ms() + timeout_ms, 'ask:' .. id)
    if most_in_flight > 0 then
      redis.call('HSET', ask, 'bulkhead', bulkhead)
      enter_bulkhead(bulkhead, id, timeout_ms)
    end
    add_count(calls, 'asked', 1)
  end
  if kind == 'retry' then add_count(calls, 'retried', 1) end
  if kind == 'call' then deposit_call(calls) elseif kind ~= 'ask' then spend_call(calls) end
  redis.call('HSET', hooks, 'ask', ask)
  count_accepted(ledger, 1)
end

local function add_copy()
  redis.call('HSET', ask, 'copy:' .. delivery, table.concat({stream, put(stream, message), ledger}, '\n'))
end

if not is_bounded then
  is_limited_by[flow] = false
  begin_ask()
  add_copy()
  return delivery
end

--- @include "script_events"
--- @include "outcome_hooks"
--- @include "admission"
local admission = admit(flow, 1)
if admission and admission.take + admission.drop == 0 then
  forget_publish(publishes, token)
  if most_in_flight > 0 then leave_line(bulkhead, id) end
  return with_events(refused(admission))
end
begin_ask()
if admission and admission.drop == 1 then
  overflowed(admission, message)
else
  add_copy()
end
if admission then after_admission(admission) end
return with_events(delivery)
