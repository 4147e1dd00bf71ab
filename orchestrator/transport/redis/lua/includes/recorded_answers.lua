-- Answers of calls that change something, in the hash of last publishes: a repeated call, whose answer was lost, returns its first one.
-- Of each caller (a thread), the last call is kept: caller -> "TOKEN ANSWER". A token begins with its caller's 16 characters (see
-- lost_answers.py).
-- If the hash can be neither read nor written, the call is done nevertheless: what is paused, cancelled, removed or released must not
-- wait for the repair of a key that it has no other use for.
local function recorded_answer(publishes, token)
  local known = redis.pcall('HGET', publishes, token:sub(1, 16))
  return type(known) == 'string' and known:sub(1, #token + 1) == token .. ' ' and known:sub(#token + 2) or nil
end

local function record_answer(publishes, token, answer)
  if redis.pcall('HSET', publishes, token:sub(1, 16), token .. ' ' .. answer) == 1 then redis.pcall('PEXPIRE', publishes, 900000) end
end
