-- Accepts a message under an idempotency key, now or for later, unless one was accepted under that key before.
-- KEYS: stream, ledger, idempotency key, the outcome's hooks, delayed, bodies, bell, and outside a batch the hash of last
-- publishes.
-- ARGV: message, delay in ms, member, delivery's id, ms the key is remembered after the outcome, ms it is before that, token of
-- the publish (see unanswered.py)
-- Returns the delivery's id; {'duplicate', id of the first}; {'refused', …} by flow control.
--- @include "mailbox_entry"
--- @include "endings"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "breaker"
--- @include "dead_letters"
--- @include "admission"
local id = ARGV[4]
local first = redis.call('GET', KEYS[3])
-- Asked twice, because the first answer was lost: it is accepted once.
if first == id then return id end
if first then return {'duplicate', first} end
-- Its key may be forgotten already.
if KEYS[8] and asked_before(KEYS[8], ARGV[7]) then return id end
local door = open_door(flow_of(KEYS[2]), 1)
if door and door.take + door.drop == 0 then
  if KEYS[8] then not_accepted(KEYS[8], ARGV[7]) end
  return answer(refused(door))
end
redis.call('SET', KEYS[3], id, 'PX', ARGV[6])
redis.call('HSET', KEYS[4], 'idempotency', KEYS[3], 'idempotency_ms', ARGV[5])
redis.call('PEXPIRE', KEYS[4], ARGV[6])
redis.call('HINCRBY', KEYS[2], 'accepted', 1)
if door and door.drop == 1 then
  overflowed(door, ARGV[1])
elseif ARGV[2] == '0' then
  put(KEYS[1], ARGV[1])
else
  schedule(KEYS[5], KEYS[6], KEYS[7], ARGV[3], ARGV[1], now_ms() + tonumber(ARGV[2]))
end
if door then close_door(door) end
return answer(id)
