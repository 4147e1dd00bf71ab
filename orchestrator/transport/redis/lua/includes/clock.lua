-- What time it is, for every script: Redis' own clock. A file of its own, so that a test can put another in its place.
local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
