-- Accepts messages into one step of a mailbox.
-- KEYS: stream, ledger, and for a single message the hash of last publishes.
-- ARGV: longest allowed (0: no bound), token of the publish (see unanswered.py), messages…
-- A stream with a time to live is somebody's reply queue: it has no ledger.
-- Returns the last one's id; {'refused', the first so many were accepted, why the others were not} by flow control.
-- Asked twice, because the first answer was lost: it is accepted once, and the token is returned.
if KEYS[3] then
  -- As asked_before() in mailbox_entry.lua, which Redis need not even make for most messages.
  local connection = ARGV[2]:sub(1, 16)
  local last = redis.call('HGET', KEYS[3], connection)
  if last == ARGV[2] then return last end
  redis.call('HSET', KEYS[3], connection, ARGV[2])
  if not last then redis.call('PEXPIRE', KEYS[3], 900000) end
end
local limit = tonumber(ARGV[1])
local flow = KEYS[2]:gsub('orc:ledger:', 'orc:flow:', 1)
local bounded = redis.call('EXISTS', flow) == 1
if not bounded and limit == 0 then
  local last
  for i = 3, #ARGV do last = redis.call('XADD', KEYS[1], '*', 'm', ARGV[i]) end
  if redis.call('PTTL', KEYS[1]) < 0 then redis.call('HINCRBY', KEYS[2], 'accepted', #ARGV - 2) end
  return last
end

--- @include "mailbox_entry"
--- @include "endings"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "breaker"
--- @include "dead_letters"
--- @include "admission"
--- @include "drop_messages"

-- The rest of publish.lua, where there is a bound, a breaker, or a longest length.
-- Costs: besides what is published, at most as many messages and MOST_MORE_DROPPED are dropped or buried, of 1 MB and one message.
-- A queue that holds far more than it may gets shorter with each publish.
-- How long the outcome of what `x-max-length` drops can be asked for: the transport's default.
local EXPIRED_TTL_MS = 3600000
local stream, ledger = KEYS[1], KEYS[2]
local wanted = #ARGV - 2
local door = open_door(flow, wanted)
local last = ''
if door and door.refusal and KEYS[3] then not_accepted(KEYS[3], ARGV[2]) end
local taken = door and door.take or wanted
for i = 3, taken + 2 do last = redis.call('XADD', stream, '*', 'm', ARGV[i]) end
local counted = redis.call('PTTL', stream) < 0
if counted then redis.call('HINCRBY', ledger, 'accepted', door and door.take + door.drop or wanted) end
if limit > 0 then
  local root = ledger:sub(1, ledger:find('orc:ledger:', 1, true) + 3)
  local over = redis.call('XLEN', stream) - claimed_in(stream) - limit
  if over > 0 then
    drop_waiting(stream, unread_from(stream), math.min(over, taken + MOST_MORE_DROPPED), function(entry)
      redis.call('XDEL', stream, entry[1])
      if not counted then return end
      redis.call('HINCRBY', ledger, 'expired', 1)
      local m, d = fields(entry)
      tell(root, m, {outcome = 'expired'}, EXPIRED_TTL_MS, d)
      end_for_celery(ledger, m, 'REVOKED', 'expired', 'it was the oldest in a full queue (x-max-length)')
    end)
  end
end
if not door then return last end
for i = door.take + 1, door.take + door.drop do overflowed(door, ARGV[i + 2]) end
close_door(door)
return answer(door.refusal and refused(door) or last)
