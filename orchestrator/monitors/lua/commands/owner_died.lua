-- Removes monitors of an owner that is gone, some at a time; with the last ones, its inbox.
-- KEYS: monitors, the owner's set, its inbox, owners, answers. ARGV: root, owner, batch
-- Returns how many, and whether there may be more
--- @include "monitors"
even_when_full(KEYS[1])
local work = begin(ARGV[1])
local refs = redis.call('SPOP', KEYS[2], ARGV[3])
local ended = {}
if #refs > 0 then
  for i, record in ipairs(redis.call('HMGET', KEYS[1], unpack(refs))) do
    local m = parsed(record)
    if m and m.owner == ARGV[2] then ended[#ended + 1], ended[#ended + 2] = refs[i], m end
  end
end
unlink(work, ended)
local removed = #ended / 2
work.owners[ARGV[2]] = true
if removed > 0 then count(work, 'owner_died', removed) end
finish(work)
if #refs == tonumber(ARGV[3]) then return {removed, 1} end
redis.call('UNLINK', KEYS[3])
redis.call('HDEL', KEYS[5], ARGV[2])
return {removed, 0}
