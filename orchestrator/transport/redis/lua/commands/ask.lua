-- Accepts a request whose reply is put where it is wanted by the script that ends it (see asks.lua).
-- KEYS: stream, ledger, the delivery's hooks, the ask, timers, counters of calls, hash of last publishes.
-- ARGV: message, the delivery's id, the ask's id, token of the publish (see publish_dedup.py), then names and values of the ask's record…
-- Returns the delivery's id; {'refused', …} by flow control. A repeated call returns the id again.
-- Costs: one message and the text of the reply; where the mailbox drops its oldest, at most 1 MB and one message more.
--- @include "mailbox_entry"
local stream, ledger, hooks, ask, timers, calls, publishes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local message, delivery, id, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local FIRST_FIELD = 5
if is_repeated_publish(publishes, token) then return delivery end

local function begin_ask()
  redis.call('HSET', ask, 'calls', calls, unpack(ARGV, FIRST_FIELD))
  redis.call('ZADD', timers, now_ms() + tonumber(redis.call('HGET', ask, 'timeout_ms')), 'ask:' .. id)
  redis.call('HSET', hooks, 'ask', ask)
  redis.call('HINCRBY', calls, 'asked', 1)
  count_accepted(ledger, 1)
end

local function add_copy()
  redis.call('HSET', ask, 'copy:' .. delivery, table.concat({stream, put(stream, message), ledger}, '\n'))
end

if redis.call('EXISTS', flow_of(ledger)) == 0 then
  begin_ask()
  add_copy()
  return delivery
end

--- @include "script_events"
--- @include "outcome_hooks"
--- @include "admission"
local admission = admit(flow_of(ledger), 1)
if admission and admission.take + admission.drop == 0 then
  forget_publish(publishes, token)
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
