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
