-- Drops messages nobody holds, some at a time.
-- KEYS: ledger, delayed, bodies, streams… ARGV: group, batch, root, ms to keep outcomes
local left = tonumber(ARGV[2])
local dropped, bytes = 0, 0
local function drop(m, d)
  bytes = bytes + #(m or '')
  drop_message(ARGV[3], KEYS[1], m, d, 'purge', ARGV[4])
  dropped = dropped + 1
end
for _, member in ipairs(redis.call('ZRANGE', KEYS[2], 0, left - 1)) do
  if bytes >= MOST_BYTES then break end
  local body, d = scheduled(KEYS[3], member)
  unschedule(KEYS[2], KEYS[3], member)
  drop(body, d)
end
for k = 4, #KEYS do
  local unread = unread_from(KEYS[k])
  local some = 1
  while left - dropped > 0 and bytes < MOST_BYTES do
    some = math.min(some, left - dropped)
    local before = bytes
    local entries = redis.call('XRANGE', KEYS[k], unread, '+', 'COUNT', some)
    for _, entry in ipairs(entries) do
      redis.call('XDEL', KEYS[k], entry[1])
      drop(fields(entry))
    end
    if #entries < some then break end
    some = many_more(some, bytes - before)
  end
end
if dropped > 0 then redis.call('HINCRBY', KEYS[1], 'cancelled', dropped) end
return answer(dropped)
