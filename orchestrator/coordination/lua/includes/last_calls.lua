-- Answers of calls that end a permit. Of each caller (a thread), the last call is kept in the hash of last publishes:
-- caller -> "TOKEN ANSWER". A token begins with its caller's 16 characters. If the hash cannot be written, the permit ends nevertheless.
local function record_answer(publishes, token, answer)
  if redis.pcall('HSET', publishes, token:sub(1, 16), token .. ' ' .. answer) == 1 then redis.pcall('PEXPIRE', publishes, 900000) end
end

local function first_answer(publishes, token)
  local known = redis.pcall('HGET', publishes, token:sub(1, 16))
  return type(known) == 'string' and known:sub(1, #token + 1) == token .. ' ' and known:sub(#token + 2) or nil
end
