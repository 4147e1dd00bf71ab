--- @include "mailbox_entry"
--- @include "runs"
-- Placement: a step that says what it needs, instead of an agent, is sent to the least loaded of the living agents that offer all
-- of it; part of runs.lua. core/workflows/placement.py and core/workflows/run.py are the same rule in Python.
-- The plan of such a step has no mailbox, and in the place of its template the number of its placement, which is in :templates as
-- JSON: {needs, levels, within_ms, candidates = {{agent, template, queue, level}, …}, send}. Its state is 'sENTRY,N' once it
-- was sent to the Nth candidate; 'n' while none lives. Besides the keys in runs.lua:
--   :unplaced                  sorted set: step in state n -> its turn, the number of the tries of this run before it was last tried
--   ROOT runs:unplaced         sorted set: uid of a run with unplaced steps -> when they are tried next, in ms
--   ROOT runs:placed           set of the agents with which steps were placed
--   ROOT runs:placed:AGENT     sorted set: uid of a run with such steps -> when they are looked at next if the agent is down, in ms
--- @include "living_slots"
-- Of an agent: its slots, and its messages, as far as this script knows. What it places counts at once.
local slots_of, loads = {}, {}

runs.placement = function(r, plan)
  local of = r.texts[plan.template]
  if not of then
    of = cjson.decode(redis.call('HGET', r.key .. ':templates', plan.template))
    r.texts[plan.template] = of
  end
  return of
end

runs.slots = function(r, agent)
  if not slots_of[agent] then slots_of[agent] = living_slots(r.root, agent) end
  return slots_of[agent]
end

runs.load = function(r, of, queue)
  local load = loads[queue]
  if not load then
    load = 0
    for _, level in ipairs(of.levels) do load = load + redis.call('XLEN', r.root .. 'q:' .. level .. ':' .. queue) end
    loads[queue] = load
  end
  return load
end

-- The place of the least loaded candidate, of equal ones the next after a place that depends on the run; nil if none lives.
runs.least_loaded = function(r, of)
  local candidates, best, least = of.candidates, nil, nil
  local first = (tonumber(r.uid:sub(1, 6), 16) or 0) % math.max(1, #candidates)
  for step = 0, #candidates - 1 do
    local place = (first + step) % #candidates + 1
    local one = candidates[place]
    local slots = runs.slots(r, one[1])
    if slots > 0 then
      local load = runs.load(r, of, one[3]) / slots
      if not best or load < least then best, least = place, load end
    end
  end
  return best
end

-- The plan of a step as it is sent to a candidate.
runs.plan_with = function(plan, of, place)
  local one = of.candidates[place]
  return {name = plan.name, template = one[2], queue = one[3], level = one[4], inputs = plan.inputs, body = plan.body,
    args = plan.args, kwargs = plan.kwargs, place = ',' .. place}
end

-- The plan of a step for the candidate that gets it; nil if none lives, and the step is unplaced then.
runs.place = function(r, step, plan)
  local of = runs.placement(r, plan)
  local place = runs.least_loaded(r, of)
  if place then
    runs.placed(r, of.candidates[place])
    return runs.plan_with(plan, of, place)
  end
  runs.set_state(r, step, 'n')
  runs.count(r, 'open', 1)
  r.left = r.left - 1
  if of.within_ms then redis.call('ZADD', r.root .. 'timers', now_ms() + of.within_ms, runs.timer(r, step)) end
  runs.try_later(r, step)
  if redis.call('ZADD', r.root .. 'runs:unplaced', 'NX', now_ms(), r.uid) == 1 then
    runs.emit(r, 'workflow_unplaced', 0, plan.name, table.concat(of.needs, ', '))
  end
end

-- A step is placed with a candidate: from now on it is looked at if that is down.
runs.placed = function(r, one)
  local agent, queue = one[1], one[3]
  loads[queue] = loads[queue] + 1
  r.agents = r.agents or {}
  if r.agents[agent] then return end
  r.agents[agent] = true
  redis.call('SADD', r.root .. 'runs:placed', agent)
  redis.call('ZADD', r.root .. 'runs:placed:' .. agent, 'NX', 0, r.uid)
  local all = redis.call('HGET', r.key, 'placed') or ''
  if not (' ' .. all .. ' '):find(' ' .. agent .. ' ', 1, true) then
    redis.call('HSET', r.key, 'placed', all == '' and agent or all .. ' ' .. agent)
  end
end

-- The run has ended: its steps need not be looked at any more.
runs.forget_placed = function(r, agents)
  for agent in agents:gmatch('%S+') do
    local placed = r.root .. 'runs:placed:' .. agent
    redis.call('ZREM', placed, r.uid)
    if redis.call('EXISTS', placed) == 0 then redis.call('SREM', r.root .. 'runs:placed', agent) end
  end
  redis.call('HDEL', r.key, 'placed')
end

-- An unplaced step is the last one to be tried again.
runs.try_later = function(r, step)
  redis.call('ZADD', r.key .. ':unplaced', redis.call('HINCRBY', r.key, 'tries', 1), step)
end

-- A step is unplaced no longer.
runs.leave_unplaced = function(r, step)
  redis.call('ZREM', r.key .. ':unplaced', step)
  redis.call('ZREM', r.root .. 'timers', runs.timer(r, step))
end

-- An unplaced step is dead: no agent came in time.
runs.give_up = function(r, step)
  local of = runs.placement(r, runs.plan(r, step))
  runs.leave_unplaced(r, step)
  runs.count(r, 'open', -1)
  runs.end_unsent(r, step, 'dead', 'unplaced', 'no living agent offers ' .. table.concat(of.needs, ', '))
end

-- Tries the first `count` of the unplaced steps again; returns how many of them are left if the script has done enough.
runs.place_unplaced = function(r, _, count)
  local unplaced = r.key .. ':unplaced'
  for left = math.min(count, redis.call('ZCARD', unplaced)), 1, -1 do
    if r.left <= 0 then return left end
    r.left = r.left - 1
    local step = redis.call('ZRANGE', unplaced, 0, 0)[1]
    local plan = runs.plan(r, step)
    local of = runs.placement(r, plan)
    local place = runs.least_loaded(r, of)
    if place then
      runs.leave_unplaced(r, step)
      runs.count(r, 'open', -1)
      runs.placed(r, of.candidates[place])
      runs.send(r, step, runs.plan_with(plan, of, place))
    else
      runs.try_later(r, step)
    end
  end
end

-- A message that was claimed, and that no worker is known to have begun, is somewhere else in its mailbox: among the first that
-- came back to it.
local LOOKS = 50
local function returned_entry(r, queue, level, id)
  r.returned = r.returned or {}
  local stream = r.root .. 'q:returned-' .. level .. ':' .. queue
  local known = r.returned[stream]
  if not known then
    known = {}
    local begin, bytes = '-', 0
    for _ = 1, LOOKS do
      if bytes >= MOST_BYTES then break end
      local entries = redis.call('XRANGE', stream, begin, '+', 'COUNT', MOST_AT_ONCE)
      for _, entry in ipairs(entries) do
        local m, d = fields(entry)
        bytes = bytes + #(m or '')
        local message = not d and read_json(m)
        local headers = message and message.headers
        if type(headers) == 'table' and type(headers.id) == 'string' and (tonumber(headers.retries) or 0) == 0 then
          known[headers.id] = entry[1]
        end
      end
      if #entries < MOST_AT_ONCE then break end
      begin = '(' .. entries[#entries][1]
    end
    r.returned[stream] = known
  end
  return known[id]
end

-- A step whose agent is down is placed again, unless a worker has begun it.
runs.move = function(r, step, entry)
  local id, place = entry:match('^([^,]+),(%d+)$')
  if not id then return end
  r.left = r.left - 1
  local plan = runs.plan(r, step)
  local of = runs.placement(r, plan)
  local one = of.candidates[tonumber(place)]
  if runs.slots(r, one[1]) > 0 then return end
  local taken = runs.take_back(r, step, entry, false)
  if not taken then
    local again = returned_entry(r, one[3], one[4], runs.delivery(r, step))
    taken = again and runs.take_back(r, step, again .. ',' .. place, false, 'returned-')
  end
  if not taken then return end
  if step:sub(1, 1) == 'u' then
    runs.taken_back(r, step, false)
  else
    runs.count(r, 'open', -1)
    runs.release(r, step)
  end
end
