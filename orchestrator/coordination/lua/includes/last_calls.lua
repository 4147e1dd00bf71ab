-- A call that ends a permit, and is repeated because its answer was lost, gets the first answer again. Of each caller, a thread, the last
-- call is kept: caller -> "TOKEN ANSWER", in the hash of last publishes (see publish_dedup.py), in which no connection has a caller's
-- name. A token begins with the caller. Where that hash cannot be written, a permit ends nevertheless.
local function record_answer(publishes, token, answer)
  if redis.pcall('HSET', publishes, token:sub(1, 16), token .. ' ' .. answer) == 1 then redis.pcall('PEXPIRE', publishes, 900000) end
end

local function first_answer(publishes, token)
  local known = redis.pcall('HGET', publishes, token:sub(1, 16))
  return type(known) == 'string' and known:sub(1, #token + 1) == token .. ' ' and known:sub(#token + 2) or nil
end
