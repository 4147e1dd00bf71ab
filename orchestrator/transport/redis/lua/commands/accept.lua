-- Accepts a message under an idempotency key, now or for later, unless the key is taken.
-- KEYS: stream, ledger, idempotency key, the outcome's hooks, delayed, bodies, bell; outside of a batch also the hash of last
-- publishes.
-- ARGV: message, delay in ms, member, the delivery's id, ms to remember the key after the outcome, ms to remember it before
-- that, token of the publish (see publish_dedup.py).
-- Returns the delivery's id; {'duplicate', id of the first}; {'refused', …} by flow control. A repeated call returns the id
-- again.
-- Costs: one message; where the mailbox drops its oldest, at most 1 MB and one message more; with deferred ones,
-- 200 messages and 1 MB are moved.
--- @include "mailbox_entry"
--- @include "needs_admission"
local stream, ledger, idempotency_key, hooks = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local delayed, bodies, bell, publishes = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local message, delay_ms, member, delivery, remembered_ms, pending_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local token = ARGV[7]
local first = redis.call('GET', idempotency_key)
-- A repeated call, because the first reply was lost: the message is accepted once.
if first == delivery then return delivery end
if first then return {'duplicate', first} end
-- Its key may be forgotten already.
if publishes and is_repeated_publish(publishes, token) then return delivery end

local function remember()
  redis.call('SET', idempotency_key, delivery, 'PX', pending_ms)
  redis.call('HSET', hooks, 'idempotency', idempotency_key, 'idempotency_ms', remembered_ms)
  redis.call('PEXPIRE', hooks, pending_ms)
  count_accepted(ledger, 1)
end

local function put_or_schedule()
  if delay_ms == '0' then return put(stream, message) end
  schedule(delayed, bodies, bell, member, message, now_ms() + tonumber(delay_ms))
end

local flow = flow_of(ledger)
if not needs_admission(flow) then
  is_limited_by[flow] = false
  remember()
  put_or_schedule()
  return delivery
end

--- @include "script_events"
--- @include "outcome_hooks"
--- @include "admission"

local admission = admit(flow, 1, false, false, function() return message end)
local is_deferred = admission and admission.deferring == 1 and delay_ms == '0'
if admission and admission.take + admission.drop == 0 then
  if publishes then forget_publish(publishes, token) end
  return with_events(refused(admission))
end
remember()
if admission and admission.drop == 1 then
  overflowed(admission, message)
elseif is_deferred then
  defer(flow, admission.root, admission.queue, stream, message)
else
  put_or_schedule()
end
if admission then after_admission(admission) end
if is_deferred then let_admitted_go(flow, admission.root, admission.queue) end
return with_events(delivery)
