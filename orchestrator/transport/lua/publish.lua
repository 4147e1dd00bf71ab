-- Accepts messages into one step of a mailbox.
-- KEYS: stream, ledger. ARGV: longest allowed (0: no bound), group, messages…
-- A stream with a time to live is somebody's reply queue: it has no ledger.
local limit = tonumber(ARGV[1])
local last
for i = 3, #ARGV do last = redis.call('XADD', KEYS[1], '*', 'm', ARGV[i]) end
local counted = redis.call('PTTL', KEYS[1]) < 0
if counted then redis.call('HINCRBY', KEYS[2], 'accepted', #ARGV - 2) end
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
    if counted then redis.call('HINCRBY', KEYS[2], 'expired', 1) end
  end
end
return last
