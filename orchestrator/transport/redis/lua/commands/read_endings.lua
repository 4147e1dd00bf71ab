-- Reads some endings that no worker is delivering, for one worker of an app at a time.
-- KEYS: endings, taken, the lease of the app's reader. ARGV: reader, ms its lease lasts, where to begin, how many to look at.
-- Returns {0} if another worker reads, else {1, now, 1 if there may be more, where to continue, ms until a taken ending is free
-- or -1, id, fields, …}.
-- Costs: reads at most 1 MB and MOST_AT_ONCE endings.
--- @include "mailbox_entry"
local endings, taken, lease = KEYS[1], KEYS[2], KEYS[3]
local reader, lease_ms, begin_at = ARGV[1], ARGV[2], ARGV[3]
local count = tonumber(ARGV[4])
even_when_full(endings)
local current_reader = redis.call('GET', lease)
if current_reader and current_reader ~= reader then return {0} end
redis.call('SET', lease, reader, 'PX', lease_ms)
local now = now_ms()
local begin, looked, bytes, some, free = begin_at, 0, 0, 1, -1
local found, more = {}, 1
while more == 1 and looked < count and bytes < MOST_BYTES do
  some = math.min(some, count - looked)
  local before = bytes
  local entries = redis.call('XRANGE', endings, begin, '+', 'COUNT', some)
  for _, entry in ipairs(entries) do
    for i = 2, #entry[2], 2 do bytes = bytes + #entry[2][i] end
    local taken_ms = tonumber(redis.call('ZSCORE', taken, entry[1]) or 0) - now
    if taken_ms > 0 then
      free = free < 0 and taken_ms or math.min(free, taken_ms)
    else
      found[#found + 1], found[#found + 2] = entry[1], entry[2]
    end
  end
  if entries[1] then begin, looked = '(' .. entries[#entries][1], looked + #entries end
  more = #entries == some and 1 or 0
  some = next_count(some, bytes - before)
end
return {1, now, more, begin, free, unpack(found)}
