-- The rest of settle.lua, where a breaker is to be told.
if ARGV[2] == 'handled' then
  breaker_succeeded(flow)
elseif ARGV[2]:sub(1, 4) == 'dead' then
  for _ = 1, ended do breaker_dead(flow, ARGV[2]:sub(6)) end
end
return answer(ended)
