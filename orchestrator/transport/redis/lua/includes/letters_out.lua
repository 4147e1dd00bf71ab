-- Dead letters of steps of runs that were replayed and have no outcome yet (core/workflows/run_calls.py is the same rule in Python).
-- Of a workflow function and all that it has called, directly or not, at most one letter is out: otherwise the outcome of a call would
-- have the function sent again beside its own letter. Such a letter has the field `replayed` in the hooks of its delivery, and is
-- counted in the field replayed:STEP of its run for each step above it.
local letters_out = {}

local OPTIONS = '^' .. ('[^\n]*\n'):rep(10) .. '([^\n]*)'

-- The steps above one: the map that an item is of, the workflow function that has called a step, and so on.
letters_out.above = function(run, step)
  local found = {}
  repeat
    local map = step:match('^(%d+)%.')
    if map then found[#found + 1] = map end
    local plan = redis.call('HGET', run .. ':plan', step:match('^u?%d+'))
    step = plan and (plan:match(OPTIONS) or ''):match('"caller": ?"([%d.]+)"')
    if step then found[#found + 1] = step end
  until not step
  return found
end

letters_out.count = function(run, above, by)
  for _, step in ipairs(above) do redis.call('HINCRBY', run, 'replayed:' .. step, by) end
end

-- Whether a letter is out of a step, of one above it or of one below it.
letters_out.has = function(root, run, step, above)
  local hooks = root .. 'hooks:' .. run:sub(#root + 5) .. '.'
  if redis.call('HEXISTS', hooks .. step, 'replayed') == 1 then return true end
  for _, one in ipairs(above) do
    if redis.call('HEXISTS', hooks .. one, 'replayed') == 1 then return true end
  end
  return tonumber(redis.call('HGET', run, 'replayed:' .. step) or 0) > 0
end
