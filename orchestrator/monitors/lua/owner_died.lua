-- Removes monitors of an owner that is gone, some at a time; with the last ones, its inbox.
-- KEYS: monitors, the owner's set, its inbox, owners, answers. ARGV: root, owner, batch
-- Returns how many, and whether there may be more
even_when_full(KEYS[1])
local work = begin(ARGV[1])
local refs = redis.call('SPOP', KEYS[2], ARGV[3])
local removed = 0
for _, ref in ipairs(refs) do
  local m = parsed(redis.call('HGET', KEYS[1], ref))
  if m and m.owner == ARGV[2] then
    unlink(work, ref, m)
    removed = removed + 1
  end
end
work.owners[ARGV[2]] = true
if removed > 0 then count(work, 'owner_died', removed) end
finish(work)
if #refs == tonumber(ARGV[3]) then return {removed, 1} end
redis.call('UNLINK', KEYS[3])
redis.call('HDEL', KEYS[5], ARGV[2])
return {removed, 0}
