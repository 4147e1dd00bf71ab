-- The time in ms, by Redis' own clock. A file of its own, so that a test can replace it.
local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
