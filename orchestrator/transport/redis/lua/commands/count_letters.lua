-- Counts the letters of the kinds that have all of these values, some kinds at a time.
-- KEYS: none. ARGV: root, cursor, about how many kinds, dimension, value, …
-- Returns {cursor, kind, number of letters, …}; a kind may come twice, as in SSCAN.
-- Costs: about as many kinds as asked for, and one command for each and each dimension; callers ask for 500.
--- @include "dead_letters"
local root, cursor, about_kinds = ARGV[1], ARGV[2], ARGV[3]
local FIRST_PAIR = 4
local sets, smallest = {}, nil
for i = FIRST_PAIR, #ARGV, 2 do
  local set = root .. 'letters:' .. ARGV[i] .. ':' .. index_name(ARGV[i + 1])
  sets[#sets + 1] = set
  if not smallest or redis.call('SCARD', set) < redis.call('SCARD', smallest) then smallest = set end
end
local scanned = redis.call('SSCAN', smallest, cursor, 'COUNT', about_kinds)
local out = {scanned[1]}
for _, kind in ipairs(scanned[2]) do
  local of_all = true
  for _, set in ipairs(sets) do
    of_all = of_all and (set == smallest or redis.call('SISMEMBER', set, kind) == 1)
  end
  if of_all then
    out[#out + 1] = kind
    out[#out + 1] = redis.call('XLEN', root .. 'letters:kind:' .. kind)
  end
end
return out
