-- Answers of calls, by their tokens, in the hash of last publishes: a repeated call, whose answer was lost, returns its first one.
-- If the hash can be neither read nor written, the call is done nevertheless: what is paused, cancelled or removed must not wait for the
-- repair of a key that it has no other use for.
local function recorded_answer(publishes, token)
  local known = redis.pcall('HGET', publishes, token)
  return type(known) == 'string' and known or nil
end

local function record_answer(publishes, token, answer)
  if redis.pcall('HSET', publishes, token, answer) == 1 then redis.pcall('PEXPIRE', publishes, 900000) end
end
