-- Accepts a message that is due later.
-- KEYS: delayed, bodies, bell, ledger, and outside a batch the hash of last publishes.
-- ARGV: member, message, delay in ms, ms the queue lives unused (0: for ever), token of the publish (see unanswered.py)
-- Asked twice, because the first answer was lost: it is accepted once.
--- @include "mailbox_entry"
--- @include "endings"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "breaker"
--- @include "dead_letters"
--- @include "admission"
if KEYS[5] and asked_before(KEYS[5], ARGV[5]) then return ARGV[1] end
local door = open_door(flow_of(KEYS[4]), 1)
if door and door.take == 0 then
  if door.drop == 0 then
    if KEYS[5] then not_accepted(KEYS[5], ARGV[5]) end
    return answer(refused(door))
  end
  redis.call('HINCRBY', KEYS[4], 'accepted', 1)
  overflowed(door, ARGV[2])
  return answer(ARGV[1])
end
schedule(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], now_ms() + tonumber(ARGV[3]))
local lives = tonumber(ARGV[4] or 0)
if lives == 0 then
  redis.call('HINCRBY', KEYS[4], 'accepted', 1)
else
  -- An expiring queue has no ledger (see publish.lua). It lives until its last message has been due for that long.
  local last = tonumber(redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2])
  for k = 1, 2 do redis.call('PEXPIREAT', KEYS[k], string.format('%.0f', last + lives)) end
end
if door then close_door(door) end
return answer(ARGV[1])
