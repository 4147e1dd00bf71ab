-- The rest of settle_with_outcome.lua, where a breaker is to be told, or more follows from the outcome.
aftermath(KEYS[3], ARGV[3], ARGV[5])
if ARGV[3] == 'handled' then
  breaker_succeeded(flow)
elseif ARGV[3] == 'dead' then
  breaker_dead(flow, ARGV[6])
end
return answer(1)
