-- Reads some endings that no worker is delivering, for one worker of an app at a time.
-- KEYS: endings, taken, the lease of the app's reader. ARGV: reader, ms its lease lasts, where to begin, how many to look at
-- Returns {0} if another one reads, else {1, now, 1 if there may be more, where to go on, ms until one that is taken is
-- free or -1, id, fields, …}
--- @include "mailbox_entry"
even_when_full(KEYS[1])
local reader = redis.call('GET', KEYS[3])
if reader and reader ~= ARGV[1] then return {0} end
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
local now, count = now_ms(), tonumber(ARGV[4])
local begin, looked, bytes, some, free = ARGV[3], 0, 0, 1, -1
local found, more = {}, 1
while more == 1 and looked < count and bytes < MOST_BYTES do
  some = math.min(some, count - looked)
  local before = bytes
  local entries = redis.call('XRANGE', KEYS[1], begin, '+', 'COUNT', some)
  for _, entry in ipairs(entries) do
    for i = 2, #entry[2], 2 do bytes = bytes + #entry[2][i] end
    local taken_ms = tonumber(redis.call('ZSCORE', KEYS[2], entry[1]) or 0) - now
    if taken_ms > 0 then
      free = free < 0 and taken_ms or math.min(free, taken_ms)
    else
      found[#found + 1], found[#found + 2] = entry[1], entry[2]
    end
  end
  if entries[1] then begin, looked = '(' .. entries[#entries][1], looked + #entries end
  more = #entries == some and 1 or 0
  some = many_more(some, bytes - before)
end
return {1, now, more, begin, free, unpack(found)}
