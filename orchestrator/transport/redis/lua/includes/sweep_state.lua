-- Says whether a sweep is needed. Returns the ms since the last sweep or -1; and 2 if a death was proved since, 1 if a heartbeat is
-- missed, else 0.
local function sweep_state(sweep, leases, missed_ms, now)
  local swept, proved = unpack(redis.call('HMGET', sweep, 'at_ms', 'proved'))
  local oldest = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')[2]
  local found = proved and 2 or oldest and now - tonumber(oldest) > tonumber(missed_ms) and 1 or 0
  return swept and now - tonumber(swept) or -1, found
end
