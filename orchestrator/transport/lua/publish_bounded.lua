-- The rest of publish.lua, where there is a bound, a breaker, or a longest length.
-- How long the outcome of what `x-max-length` drops can be asked for: the transport's default.
local EXPIRED_TTL_MS = 3600000
local wanted = #ARGV - 2
local door = open_door(flow, wanted)
local last = ''
if door and door.refusal and KEYS[3] then not_accepted(KEYS[3], ARGV[2]) end
for i = 3, (door and door.take or wanted) + 2 do last = redis.call('XADD', KEYS[1], '*', 'm', ARGV[i]) end
local counted = redis.call('PTTL', KEYS[1]) < 0
if counted then redis.call('HINCRBY', KEYS[2], 'accepted', door and door.take + door.drop or wanted) end
if limit > 0 then
  local unread = '-'
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
  if groups[1] then
    for i = 1, #groups[1], 2 do
      if groups[1][i] == 'last-delivered-id' then unread = '(' .. groups[1][i + 1] end
    end
  end
  local waiting = redis.call('XRANGE', KEYS[1], unread, '+')
  for i = 1, #waiting - limit do
    redis.call('XDEL', KEYS[1], waiting[i][1])
    if counted then
      redis.call('HINCRBY', KEYS[2], 'expired', 1)
      local m, d = fields(waiting[i])
      tell(KEYS[2]:sub(1, KEYS[2]:find('orc:ledger:', 1, true) + 3), m, {outcome = 'expired'}, EXPIRED_TTL_MS, d)
      end_for_celery(KEYS[2], m, 'REVOKED', 'expired', 'it was the oldest in a full queue (x-max-length)')
    end
  end
end
if not door then return last end
for i = door.take + 1, door.take + door.drop do overflowed(door, ARGV[i + 2]) end
close_door(door)
return answer(door.refusal and refused(door) or last)
