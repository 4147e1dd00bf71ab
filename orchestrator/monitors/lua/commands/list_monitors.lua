-- Reads some of an owner's or a target's monitors. KEYS: the set, monitors.
-- ARGV: cursor, about how many, SSCAN or ZSCAN, as the set is a plain or a sorted one
-- Returns {cursor, ref, record or '', …}
--- @include "monitors"
local scanned = redis.call(ARGV[3], KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local out = {scanned[1]}
local refs = scanned[2]
if ARGV[3] == 'ZSCAN' then
  refs = {}
  for i = 1, #scanned[2], 2 do refs[#refs + 1] = scanned[2][i] end
end
if #refs == 0 then return out end
local records = redis.call('HMGET', KEYS[2], unpack(refs))
for i, ref in ipairs(refs) do
  out[#out + 1] = ref
  out[#out + 1] = records[i] or ''
end
return out
