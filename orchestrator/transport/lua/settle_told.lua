-- The rest of settle.lua, where a breaker is to be told.
if ARGV[2] == 'handled' then
  breaker_succeeded(flow)
elseif ARGV[2] == 'dead' then
  for _ = 1, ended do breaker_failed(flow) end
end
return answer(ended)
