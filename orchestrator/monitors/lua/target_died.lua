-- Removes monitors on an incarnation that is gone, some at a time, and in the same step records their DOWNs. A monitor
-- on an agent ends with the last of the incarnations it was made on.
-- KEYS: monitors, the target's set. ARGV: root, template, step, default supervision, incarnation, reason, batch
-- Returns how many DOWNs, how many whose owner is gone as well, and whether there may be more
even_when_full(KEYS[1])
local work = begin(ARGV[1], ARGV[2], ARGV[3], ARGV[4])
local gone = ARGV[5]
local refs = redis.call('SPOP', KEYS[2], ARGV[7])
local told, ownerless = 0, 0
for _, ref in ipairs(refs) do
  local m = parsed(redis.call('HGET', KEYS[1], ref))
  if m then
    local left = {}
    for _, incarnation in ipairs(m.left) do
      if incarnation ~= gone then left[#left + 1] = incarnation end
    end
    if #left > 0 then
      m.left = left
      redis.call('HSET', KEYS[1], ref, packed(m))
    else
      unlink(work, ref, m)
      if lives(work, m.owner) then
        down(work, ref, m, ARGV[6])
        told = told + 1
      else
        ownerless = ownerless + 1
      end
    end
  end
end
work.targets[gone] = true
if told > 0 then count(work, 'target_died', told) end
if ownerless > 0 then count(work, 'owner_died', ownerless) end
finish(work)
return {told, ownerless, #refs == tonumber(ARGV[7]) and 1 or 0}
