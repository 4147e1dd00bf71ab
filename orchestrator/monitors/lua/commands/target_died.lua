-- Removes monitors on an incarnation that is gone, some at a time, and records their DOWNs in the same step. A monitor on an
-- agent ends with the last of the incarnations it was made on.
-- KEYS: monitors, the target's set. ARGV: root, template, level, default supervision, incarnation, reason, batch.
-- Returns {number of DOWNs, number of monitors whose owner is gone as well, 1 if there may be more}.
-- Costs: at most `batch` monitors; callers name 100.
--- @include "monitors"
local monitors, watched = KEYS[1], KEYS[2]
local root, template, level, default_supervision, gone, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local batch = ARGV[7]
even_when_full(monitors)
local work = begin(root, template, level, default_supervision)
local refs = {}
for i, member in ipairs(redis.call('ZPOPMIN', watched, batch)) do
  if i % 2 == 1 then refs[#refs + 1] = member end
end
local downs, ownerless, ended = 0, 0, {}
if #refs > 0 then
  local owners, agents, seen = {}, {}, {}
  for i, record in ipairs(redis.call('HMGET', monitors, unpack(refs))) do
    local m = parsed(record)
    if m then
      local left = {}
      for _, incarnation in ipairs(m.left) do
        if incarnation ~= gone then left[#left + 1] = incarnation end
      end
      m.left = left
      if #left > 0 then
        redis.call('HSET', monitors, refs[i], packed(m))
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
    down(work, ref, m, reason)
    downs = downs + 1
  else
    ownerless = ownerless + 1
  end
end
work.targets[gone] = true
if downs > 0 then count(work, 'target_died', downs) end
if ownerless > 0 then count(work, 'owner_died', ownerless) end
finish(work)
return {downs, ownerless, #refs == tonumber(batch) and 1 or 0}
