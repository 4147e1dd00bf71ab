-- Removes monitors of an owner that is gone, some at a time; with the last ones, its inbox.
-- KEYS: monitors, the owner's set, its inbox, owners, replies. ARGV: root, owner, batch.
-- Returns {number removed, 1 if there may be more}.
-- Costs: at most `batch` monitors; callers name 100.
--- @include "monitors"
local monitors, owned, inbox, replies = KEYS[1], KEYS[2], KEYS[3], KEYS[5]
local root, owner, batch = ARGV[1], ARGV[2], ARGV[3]
even_when_full(monitors)
local work = begin(root)
local refs = redis.call('SPOP', owned, batch)
local ended = {}
if #refs > 0 then
  for i, record in ipairs(redis.call('HMGET', monitors, unpack(refs))) do
    local m = parsed(record)
    if m and m.owner == owner then ended[#ended + 1], ended[#ended + 2] = refs[i], m end
  end
end
unlink(work, ended)
local removed = #ended / 2
work.owners[owner] = true
if removed > 0 then count(work, 'owner_died', removed) end
finish(work)
if #refs == tonumber(batch) then return {removed, 1} end
redis.call('UNLINK', inbox)
redis.call('HDEL', replies, owner)
return {removed, 0}
