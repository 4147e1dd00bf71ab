-- Judges candidates once more, each as one step, and repairs those that are leaks if asked to.
-- KEYS: monitors. ARGV: root, template, level, default supervision, 'repair' or 'judge', age in ms from which a monitor is old,
-- then of each candidate: kind, ref, and what else belongs to it (another ref, or the name of a set).
-- Returns for each 1 if it is a leak (and repaired, if asked to), else 0.
-- Costs: at most 200 candidates, which callers see to.
--- @include "monitors"
local monitors = KEYS[1]
local root, template, level, default_supervision, action, old_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local FIRST_SUSPECT = 7
even_when_full(monitors)
local repairs = action == 'repair'
local work = begin(root, template, level, default_supervision)
local now = now_ms()

local function gone(id)
  return not lives(work, id) and not redis.call('ZSCORE', root .. 'dying', id)
end

local function all_gone(m)
  for _, incarnation in ipairs(m.left) do
    if not gone(incarnation) then return false end
  end
  return true
end

local function named_on(incarnation, ref)
  return redis.call('ZSCORE', root .. 'monitors-on:' .. incarnation, ref) and true or false
end

local function judged(kind, ref, more, m, record)
  if kind == 'half-written' then
    if more ~= '' then
      -- A set names a monitor that there is not, or that does not name the set.
      local mine = false
      if m then
        mine = more == 'monitors-of:' .. m.owner
        for _, incarnation in ipairs(m.left) do mine = mine or more == 'monitors-on:' .. incarnation end
      end
      if mine then return false end
      local id = string.sub(more, 13)
      if string.sub(more, 1, 12) == 'monitors-of:' then
        if redis.call('SISMEMBER', root .. more, ref) == 0 then return false end
        if repairs then
          redis.call('SREM', root .. more, ref)
          work.owners[id] = true
        end
      else
        if not named_on(id, ref) then return false end
        if repairs then
          redis.call('ZREM', root .. more, ref)
          work.targets[id] = true
        end
      end
      return true
    end
    if not record then return false end
    if not m then
      if repairs then
        redis.call('HDEL', monitors, ref)
        if tonumber(ref) then count(work, 'leak', 1) end
      end
      return true
    end
    local whole = redis.call('SISMEMBER', root .. 'monitor-owners', m.owner) == 1
      and redis.call('SISMEMBER', root .. 'monitors-of:' .. m.owner, ref) == 1
    for _, incarnation in ipairs(m.left) do
      whole = whole and redis.call('SISMEMBER', root .. 'monitor-targets', incarnation) == 1
        and named_on(incarnation, ref)
    end
    if whole then return false end
    if repairs then
      redis.call('SADD', root .. 'monitor-owners', m.owner)
      redis.call('SADD', root .. 'monitors-of:' .. m.owner, ref)
      for _, incarnation in ipairs(m.left) do
        redis.call('SADD', root .. 'monitor-targets', incarnation)
        redis.call('ZADD', root .. 'monitors-on:' .. incarnation, number_of(m.owner), ref)
      end
    end
    return true
  end
  if not m then return false end
  if kind == 'owner gone' then
    if not gone(m.owner) then return false end
    if repairs then
      unlink(work, {ref, m})
      count(work, 'owner_died', 1)
    end
    return true
  elseif kind == 'target gone' then
    if gone(m.owner) or not all_gone(m) then return false end
    if repairs then
      unlink(work, {ref, m})
      count(work, 'target_died', 1)
      down(work, ref, m, 'noproc')
    end
    return true
  elseif kind == 'duplicate' then
    local first = parsed(redis.call('HGET', monitors, more))
    if not first or first.owner ~= m.owner or first.target ~= m.target or first.tag ~= m.tag then return false end
  elseif now - m.at < tonumber(old_ms) or gone(m.owner) or all_gone(m) then
    return false
  end
  if repairs then
    unlink(work, {ref, m})
    count(work, 'leak', 1)
  end
  return true
end

local out = {}
for i = FIRST_SUSPECT, #ARGV, 3 do
  local record = redis.call('HGET', monitors, ARGV[i + 1])
  out[#out + 1] = judged(ARGV[i], ARGV[i + 1], ARGV[i + 2], parsed(record), record) and 1 or 0
end
finish(work)
return out
