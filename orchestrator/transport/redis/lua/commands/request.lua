-- Accepts a message as publish.lua does, if an incarnation lives that hosts its agent.
-- KEYS: stream, ledger, hash of last publishes, leases. ARGV: as publish.lua's first two, the incarnation, the message.
-- Returns {'down'}, and accepts nothing, if the incarnation has no lease; otherwise as publish.lua.
-- Costs: as publish.lua.
local host, leases = table.remove(ARGV, 3), KEYS[4]
-- One whose reply was lost was accepted: what comes then says so.
if not redis.call('ZSCORE', leases, host) and redis.call('HGET', KEYS[3], ARGV[2]:sub(1, 16)) ~= ARGV[2] then return {'down'} end
--- @include "publish_messages"
