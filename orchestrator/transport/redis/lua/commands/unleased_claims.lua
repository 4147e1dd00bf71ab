-- What an incarnation holds according to Redis, for it to compare with what it knows of.
-- KEYS: streams… ARGV: group, incarnation, idle for at least so many ms
-- Returns {key index, id, …}
--- @include "mailbox_entry"
local out = {}
for k = 1, #KEYS do
  local pending = redis.pcall('XPENDING', KEYS[k], ARGV[1], 'IDLE', ARGV[3], '-', '+', 1000, ARGV[2])
  if not pending.err then
    for _, p in ipairs(pending) do
      out[#out + 1] = k
      out[#out + 1] = p[1]
    end
  end
end
return out
