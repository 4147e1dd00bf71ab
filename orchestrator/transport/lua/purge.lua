-- Drops messages nobody holds, some at a time. KEYS: ledger, delayed, bodies, streams… ARGV: group, batch, root, ms to keep outcomes
local left = tonumber(ARGV[2])
local dropped = 0
local function drop(m, d)
  tell(ARGV[3], m, {outcome = 'cancelled', by = 'purge'}, ARGV[4], d)
  dropped = dropped + 1
end
for _, member in ipairs(redis.call('ZRANGE', KEYS[2], 0, left - 1)) do
  local body, d = scheduled(KEYS[3], member)
  unschedule(KEYS[2], KEYS[3], member)
  drop(body, d)
end
for k = 4, #KEYS do
  local unread = '-'
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[k])
  if not groups.err and groups[1] then
    for i = 1, #groups[1], 2 do
      if groups[1][i] == 'last-delivered-id' then unread = '(' .. groups[1][i + 1] end
    end
  end
  if left - dropped > 0 then
    for _, entry in ipairs(redis.call('XRANGE', KEYS[k], unread, '+', 'COUNT', left - dropped)) do
      redis.call('XDEL', KEYS[k], entry[1])
      drop(fields(entry))
    end
  end
end
if dropped > 0 then redis.call('HINCRBY', KEYS[1], 'cancelled', dropped) end
return answer(dropped)
