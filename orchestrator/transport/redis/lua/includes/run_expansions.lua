--- @include "mailbox_entry"
--- @include "runs"
-- Steps that take the place of one whose handler has returned them; part of runs.lua. A worker has written them to the plan before
-- the outcome is recorded, which says {expanded = {first, count, final}}; so what a killed attempt has written has no effect.
--   x17 in :plan      its dependents are those of the new steps that depend on nothing, from 17 on
--   x17 in :states    h, once they take the place of a step
--   x17 in :outcomes  the outcome of that step's message
-- The step's state is 'x17,0'; 'x17,1' if one of them has failed and the step is guarded. The last one of them is a join, with the
-- option `of`, the step; it ends when all have.

-- Whether a step's message has ended with such an outcome, and it is not too late for the new steps: then they begin. Of a workflow
-- function that waits for its calls: it has not ended.
runs.expand = function(r, step, outcome)
  local said = read_json(outcome) or {}
  if type(said.suspended) == 'table' and step:sub(1, 1) ~= 'u' then
    runs.suspend(r, step, outcome, said.suspended)
    return true
  end
  local expanded = said.expanded
  if type(expanded) ~= 'table' or r.state ~= 'running' and not runs.STOPPED[r.state] or step:sub(1, 1) == 'u' then return false end
  local was, begin = runs.state(r, step):sub(1, 1), ('x%d'):format(expanded.first)
  if was == 's' then
    runs.count(r, 'open', -1)
  elseif not runs.FAILED[was] or not runs.unfail(r, step, was) then
    return false
  end
  runs.set_state(r, step, begin .. ',0')
  runs.set_state(r, begin, 'h')
  redis.call('HSET', r.key .. ':outcomes', begin, outcome)
  redis.call('HINCRBY', r.key, 'total', expanded.count)
  -- Its handler has run, so that its compensation comes after those of the steps that take its place.
  runs.remember_undo(r, step)
  runs.plan_work(r, 'd', begin)
  return true
end

-- A step that was not handled is replaced after a replay. Returns false if others have begun on its failure.
runs.unfail = function(r, step, was)
  local number = step:match('^%d+')
  if runs.plan(r, number).guarded then return false end
  local of = number ~= step and runs.map(r, number)
  if not of then
    runs.count(r, 'failures', -1)
  elseif of.unhandled > 0 then
    of.ended, of.unhandled = of.ended - 1, of.unhandled - 1
    runs.set_map(r, number, of)
    if runs.state(r, number):sub(1, 1) == 'd' then
      runs.count(r, 'failures', -1)
      runs.forget_end(r, number, 'd')
      runs.set_state(r, number, 'm')
    end
  end
  local was_by_deployment = runs.state(r, step) == 'd1'
  runs.forget_end(r, step, was)
  if runs.STOPPED[r.state] and runs.count_of(r, 'failures') == 0 then
    runs.reopen(r, 'running')
    runs.plan_work(r, 'r', '')
  elseif was_by_deployment then
    runs.compensate_after_all(r)
  end
  return true
end

-- A step was not handled; if it is in the place of one that is guarded, that one is dead in the end.
runs.fail_expansion = function(r, plan)
  local owner = plan.options:match('"fails": ?"([%d.]+)"')
  local begin = owner and runs.state(r, owner):match('^(x%d+),')
  if begin then runs.set_state(r, owner, begin .. ',1') end
end

-- All steps have ended that are in the place of a step.
runs.expansion_ended = function(r, owner)
  local begin, failed = runs.state(r, owner):match('^(x%d+),(%d)$')
  if failed == '1' then
    runs.end_unsent(r, owner, 'dead', 'steps failed', 'steps that took its place were not handled')
  elseif failed then
    redis.call('HSET', r.key .. ':outcomes', owner, redis.call('HGET', r.key .. ':outcomes', begin))
    runs.ended(r, owner, 'handled')
  end
end

-- The result in an outcome, and whether it may have references in it: of a replaced step it is its `final`.
local function result_of(r, number)
  local outcome = read_json(redis.call('HGET', r.key .. ':outcomes', number)) or {}
  if type(outcome.expanded) == 'table' then return outcome.expanded.final, true end
  return outcome.result, false
end

local function reference_in(value, refers)
  local reference = refers and type(value) == 'table' and value['$orc']
  return type(reference) == 'table' and reference or nil
end

-- A place in a list of results: the number of its step or item; nil if there is none.
local function nth_result(r, reference, place)
  if type(place) ~= 'number' then return nil end
  local of = reference.map and runs.map(r, reference.map)
  local count = of and of.items or reference.steps and runs.number_in(reference.steps) or 0
  if place < 0 then place = place + count end
  if place < 0 or place >= count then return nil end
  if reference.map then return ('%s.%d'):format(reference.map, place) end
  for first, last in reference.steps:gmatch('(%d+)%-?(%d*)') do
    first, last = tonumber(first), tonumber(last ~= '' and last or first)
    if place <= last - first then return ('%d'):format(first + place) end
    place = place - (last - first + 1)
  end
end

-- Whether a text has a character at a place.
local function has_character(text, place)
  local _, count = text:gsub('[^\128-\191]', '')
  return place < count and place >= -count
end

-- What a reference leads to, whether references in it are still to be replaced, and whether there is no such part, as
-- core/workflows/result_path.py has it.
runs.follow = function(r, reference)
  local path, at, step, missing = reference.path, 1, reference.step, false
  while not step do
    if not path[at] then return {['$orc'] = {map = reference.map, steps = reference.steps}}, true end
    step = nth_result(r, reference, path[at])
    if not step then return nil, false, true end
    at = at + 1
  end
  local value, refers = result_of(r, step)
  if not refers and (value == nil or value == cjson.null) then return nil, false, false end
  for i = at, #path do
    local name, inner = path[i], reference_in(value, refers)
    if inner then value, refers, missing = runs.follow(r, inner) end
    if missing then return nil, false, true end
    inner = reference_in(value, refers)
    if inner then
      value, refers, missing = runs.follow(r, {map = inner.map, steps = inner.steps, path = {name}})
    elseif type(value) == 'string' and type(name) == 'number' then
      missing, value, refers = not has_character(value, name), '', false
    elseif type(value) ~= 'table' then
      missing = true
    else
      if type(name) == 'number' then name = name + (name < 0 and #value + 1 or 1) end
      value = value[name]
      missing = value == nil
    end
    if missing then return nil, false, true end
  end
  local inner = reference_in(value, refers)
  if inner and inner.step then return runs.follow(r, inner) end
  return value, refers, false
end

-- How many numbers there are in ranges.
runs.number_in = function(ranges)
  local count = 0
  for first, last in ranges:gmatch('(%d+)%-?(%d*)') do
    count = count + 1 + (tonumber(last) or tonumber(first)) - tonumber(first)
  end
  return count
end

-- A step is dead: its errbacks begin, unless another step has called them; e12 in :outcomes says which has called 12.
runs.call_errbacks = function(r, step, plan)
  for first, last in (plan.options:match('"errbacks": ?"([%d,-]+)"') or ''):gmatch('(%d+)%-?(%d*)') do
    first = tonumber(first)
    for number = first, tonumber(last) or first do
      local errback = ('%d'):format(number)
      if runs.state(r, errback) == '' then
        local called = {outcome = 'dead', step = step, task = plan.options:match('"task": ?"([^"]+)"')}
        redis.call('HSET', r.key .. ':outcomes', 'e' .. errback, cjson.encode(called))
        runs.release(r, errback)
      end
    end
  end
end
