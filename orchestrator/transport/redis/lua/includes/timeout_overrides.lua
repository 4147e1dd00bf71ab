--- @include "clock"
-- Overrides of timeouts: a hash, name -> JSON, which ends with its last override. A name is never empty: '' is the version, which
-- each change renews, so that heartbeats report it.

-- Removes what has ended. Returns the end of the last one that is left in ms, or 0, and how many are left.
local function drop_ended(overrides, now)
  local flat, last_ms, number = redis.call('HGETALL', overrides), 0, 0
  for i = 1, #flat, 2 do
    if flat[i] ~= '' then
      local until_ms = cjson.decode(flat[i + 1]).until_ms
      if until_ms <= now then
        redis.call('HDEL', overrides, flat[i])
      else
        last_ms, number = math.max(last_ms, until_ms), number + 1
      end
    end
  end
  return last_ms, number
end

-- A version is later than all before it, also than those of a hash that has expired.
local function renew_version(overrides, now)
  local version = tonumber(redis.call('HGET', overrides, '') or 0)
  redis.call('HSET', overrides, '', string.format('%.0f', math.max(now, version + 1)))
end
