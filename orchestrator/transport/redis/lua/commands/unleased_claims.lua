-- Lists what an incarnation holds according to Redis, so that it can find claims that it does not know of.
-- KEYS: streams… ARGV: group, incarnation, idle for at least this many ms.
-- Returns {key index, id, …}.
-- Costs: at most 1,000 pending messages a stream, without reading them.
local group, incarnation, idle_ms = ARGV[1], ARGV[2], ARGV[3]
local out = {}
for k = 1, #KEYS do
  local pending = redis.pcall('XPENDING', KEYS[k], group, 'IDLE', idle_ms, '-', '+', 1000, incarnation)
  if not pending.err then
    for _, p in ipairs(pending) do
      out[#out + 1] = k
      out[#out + 1] = p[1]
    end
  end
end
return out
