-- Removes monitors on an incarnation that is gone, some at a time, and in the same step records their DOWNs. A monitor
-- on an agent ends with the last of the incarnations it was made on.
-- KEYS: monitors, the target's set. ARGV: root, template, step, default supervision, incarnation, reason, batch
-- Returns how many DOWNs, how many whose owner is gone as well, and whether there may be more
--- @include "monitors"
even_when_full(KEYS[1])
local work = begin(ARGV[1], ARGV[2], ARGV[3], ARGV[4])
local gone = ARGV[5]
local refs = {}
for i, member in ipairs(redis.call('ZPOPMIN', KEYS[2], ARGV[7])) do
  if i % 2 == 1 then refs[#refs + 1] = member end
end
local told, ownerless, ended = 0, 0, {}
if #refs > 0 then
  local owners, agents, seen = {}, {}, {}
  for i, record in ipairs(redis.call('HMGET', KEYS[1], unpack(refs))) do
    local m = parsed(record)
    if m then
      local left = {}
      for _, incarnation in ipairs(m.left) do
        if incarnation ~= gone then left[#left + 1] = incarnation end
      end
      m.left = left
      if #left > 0 then
        redis.call('HSET', KEYS[1], refs[i], packed(m))
      else
        ended[#ended + 1], ended[#ended + 2] = refs[i], m
        if not seen[m.owner] then
          seen[m.owner] = true
          owners[#owners + 1] = m.owner
          if m.agent ~= '' then agents[#agents + 1] = m.agent end
        end
      end
    end
  end
  unlink(work, ended)
  look_up(work, owners, agents)
end
for i = 1, #ended, 2 do
  local ref, m = ended[i], ended[i + 1]
  if lives(work, m.owner) then
    down(work, ref, m, ARGV[6])
    told = told + 1
  else
    ownerless = ownerless + 1
  end
end
work.targets[gone] = true
if told > 0 then count(work, 'target_died', told) end
if ownerless > 0 then count(work, 'owner_died', ownerless) end
finish(work)
return {told, ownerless, #refs == tonumber(ARGV[7]) and 1 or 0}
