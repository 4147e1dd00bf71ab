-- The holder itself gives messages back: it stops, was told to requeue, or lost the pool child that ran them.
-- KEYS: stream.
-- ARGV: root, queue, group, max deaths, ms to keep outcomes, reason of death or '', by, '1' if it ran alone, ids…
even_when_full(KEYS[1])
local result = {}
for i = 9, #ARGV do
  local death = nil
  if ARGV[6] ~= '' then death = {reason = ARGV[6], by = ARGV[7], at = now_ms(), alone = ARGV[8] == '1' or nil} end
  result[#result + 1] =
    give_back(ARGV[1], ARGV[2], KEYS[1], ARGV[3], ARGV[i], death, 0, tonumber(ARGV[4]), ARGV[5]) or 'gone'
end
return answer(result)
