-- Keeps a reply for calls that may fall back to an old one, for the longest age that one of them allows.
-- KEYS: reply. ARGV: ms that this caller allows, the reply.
-- Returns nothing.
-- Costs: three commands, and the reply's text.
local reply = KEYS[1]
local age_ms, text = tonumber(ARGV[1]), ARGV[2]
-- The text begins with how long it is kept, so that its age can be told from what is left of that.
local before_ms = tonumber(redis.call('GETRANGE', reply, 0, 15):match('^(%d+) ') or 0)
local kept = string.format('%.0f', math.max(age_ms, before_ms))
redis.call('SET', reply, kept .. ' ' .. text, 'PX', kept)
