-- Reads some of an owner's or a target's monitors.
-- KEYS: the set, monitors. ARGV: cursor, about how many, SSCAN or ZSCAN for a plain or a sorted set.
-- Returns {cursor, ref, record or '', …}.
-- Costs: about as many monitors as asked for; callers ask for 500.
local set, monitors = KEYS[1], KEYS[2]
local cursor, about, scan = ARGV[1], ARGV[2], ARGV[3]
local scanned = redis.call(scan, set, cursor, 'COUNT', about)
local out = {scanned[1]}
local refs = scanned[2]
if scan == 'ZSCAN' then
  refs = {}
  for i = 1, #scanned[2], 2 do refs[#refs + 1] = scanned[2][i] end
end
if #refs == 0 then return out end
local records = redis.call('HMGET', monitors, unpack(refs))
for i, ref in ipairs(refs) do
  out[#out + 1] = ref
  out[#out + 1] = records[i] or ''
end
return out
