--- @include "mailbox_entry"
--- @include "runs"
-- Maps: the items of a map are sent, at most its limit at a time, and end it; part of runs.lua.

-- How many items a map has: of a list in the result of a step, or of another map; nil if there is no list,
-- and whether that is because a result has no such part.
runs.items = function(r, options)
  local over = {path = options.path}
  over[runs.plan(r, options.over).kind == 'm' and 'map' or 'step'] = options.over
  local value, refers, missing = runs.follow(r, over)
  if missing then return nil, true end
  if type(value) ~= 'table' then return nil end
  local reference = refers and value['$orc']
  if reference and reference.map then
    local of = runs.map(r, reference.map)
    return of and of.items
  elseif reference then
    return runs.number_in(reference.steps)
  end
  if #value == 0 and next(value) ~= nil then return nil end
  return #value
end

runs.map = function(r, map)
  local ended, unhandled, items, sent =
    (redis.call('HGET', r.key .. ':maps', map) or ''):match('^(%d+),(%d+),(%d+),(%d+)$')
  if not ended then return nil end
  return {ended = tonumber(ended), unhandled = tonumber(unhandled), items = tonumber(items), sent = tonumber(sent)}
end

runs.set_map = function(r, map, of)
  redis.call('HSET', r.key .. ':maps', map, ('%d,%d,%d,%d'):format(of.ended, of.unhandled, of.items, of.sent))
end

runs.begin_map = function(r, step, plan)
  local options = cjson.decode(plan.options)
  local items, missing = runs.items(r, options)
  if not items then
    local fault = missing and 'InvalidStepInput: a result has no such part: ' or 'map over what is no list: '
    runs.end_unsent(r, step, 'dead', 'validation', fault .. options.says)
    return
  end
  runs.set_map(r, step, {ended = 0, unhandled = 0, items = items, sent = 0})
  if items == 0 then
    runs.end_unsent(r, step, 'handled')
    return
  end
  runs.set_state(r, step, 'm')
  runs.plan_work(r, 'x', step)
end

runs.send_items = function(r, step)
  local of = runs.map(r, step)
  local place = runs.state(r, step):match('^m(%d*)$')
  if of.sent >= of.items or not place then return nil end
  if runs.STOPPED[r.state] or r.state == 'running' and r.paused then
    redis.call('RPUSH', r.key .. ':ready', step)
    return nil
  elseif r.state ~= 'running' then
    return nil
  end
  local plan, rest = runs.plan(r, step), nil
  local limit = tonumber(plan.options:match('"limit": ?(%d+)')) or of.items
  while of.sent < of.items and of.sent - of.ended < limit and (tonumber(place) or 0) < of.items do
    if r.left <= 0 then
      rest = 0
      break
    end
    local one = step .. '.' .. (place == '' and ('%d'):format(of.sent) or place)
    local was = place ~= '' and runs.state(r, one):sub(1, 1)
    if was then place = ('%d'):format(place + 1) end
    if was and not runs.FAILED[was] then
      r.left = r.left - 1
    else
      if was then runs.forget_outcome(r, one, was) end
      runs.send(r, one, plan)
      of.sent = of.sent + 1
    end
  end
  runs.set_map(r, step, of)
  if place ~= '' then runs.set_state(r, step, 'm' .. place) end
  return rest
end

-- An item of a map has ended; `again` says that it was handled after a replay.
runs.item_ended = function(r, map, handled, again)
  local of = runs.map(r, map)
  if again and of.unhandled > 0 then
    of.unhandled = of.unhandled - 1
  else
    of.ended, of.unhandled = of.ended + 1, of.unhandled + (handled and 0 or 1)
  end
  runs.set_map(r, map, of)
  if r.state == 'cancelled' and not again and (of.unhandled > 0 or of.sent < of.items) then
    if of.ended == of.sent then runs.cancelled(r, map) end
  elseif of.ended == of.items and (not again or of.unhandled == 0) then
    if of.unhandled == 0 then
      runs.end_unsent(r, map, 'handled')
    else
      local why = ('%d of %d items were not handled'):format(of.unhandled, of.items)
      runs.end_unsent(r, map, 'dead', 'items failed', why)
    end
  elseif of.sent < of.items and not again then
    runs.plan_work(r, 'x', map)
  end
end
