-- Records that a handler waits in a call, and finds out whether that would wait for itself: whether all slots of all workers that could
-- answer wait in calls, each for agents of which the same is true.
-- KEYS: the incarnation's waits, leases. ARGV: root, incarnation, delivery, the mailbox that is called, the agent that calls, the agent
-- that is called.
-- The waits of an incarnation are a hash: delivery -> mailbox that is called, newline, agent that calls, newline, agent that is called.
-- Returns the ring, two texts for each of its agents: its name; and the incarnation that runs it, if the agent before it calls another
-- one, which finds no free slot there, or '' if the agent before it calls it. The first and the last agent are the one that calls.
-- Empty if there is no ring, or if it cannot be known. Of several rings it is one in which most agents call the next.
-- Costs: seven commands where a worker that serves the mailbox has a free slot. Else four for each worker whose slots all wait, and
-- three for each mailbox that they wait for, until a free slot is found, or 250 such workers, 500 waits or 4,000 pairs of mailbox and
-- worker are not enough.
local asking, leases = KEYS[1], KEYS[2]
local root, incarnation, delivery, callee, caller, called = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local MOST_WORKERS, MOST_WAITS, MOST_PAIRS = 250, 500, 4000
-- Nothing may be waited for as long. A death ends them sooner.
local KEPT_MS = 172800000
redis.call('HSET', asking, delivery, callee .. '\n' .. caller .. '\n' .. called)
redis.call('PEXPIRE', asking, KEPT_MS)

-- By worker without a free slot its waits; by agent the waits of its handlers; this handler's own wait; how much was looked at.
local waits, by_agent, own = {}, {}, nil
local workers_seen, waits_seen, pairs_seen = 0, 0, 0

-- Whether all slots of a worker wait, for replies that are not there yet. If so, its waits are known from then on.
local function is_full(who)
  local key = root .. 'asking:' .. who
  local slots = tonumber(redis.call('HGET', root .. 'incarnation:' .. who, 'concurrency') or '') or 0
  local count = redis.call('HLEN', key)
  workers_seen, waits_seen = workers_seen + 1, waits_seen + count
  if slots == 0 or count < slots or workers_seen > MOST_WORKERS or waits_seen > MOST_WAITS then return false end
  local flat, outcomes, found = redis.call('HGETALL', key), {}, {}
  for at = 1, #flat, 2 do outcomes[#outcomes + 1] = root .. 'outcome:' .. flat[at] end
  local are_over = redis.call('EXISTS', unpack(outcomes))
  if count - are_over < slots then return false end
  for at = 1, #flat, 2 do
    if are_over == 0 or redis.call('EXISTS', root .. 'outcome:' .. flat[at]) == 0 then
      local queue, agent, asked = flat[at + 1]:match('^([^\n]*)\n([^\n]*)\n(.*)$')
      local wait = {who = who, queue = queue, agent = agent, asked = asked}
      found[#found + 1] = wait
      by_agent[agent] = by_agent[agent] or {}
      table.insert(by_agent[agent], wait)
      if who == incarnation and flat[at] == delivery then own = wait end
    end
  end
  waits[who] = found
  return true
end

-- All mailboxes that the answer depends on, and who serves them: none may have a slot that does not wait.
local lives, servers, order = {}, {}, {callee}
local is_known = {[callee] = true}

-- Those who serve a mailbox and live; nil if one of them has a free slot, if nobody does, or if there are too many.
local function full_servers(queue)
  local key = root .. 'servers:' .. queue
  pairs_seen = pairs_seen + redis.call('SCARD', key)
  if pairs_seen > MOST_PAIRS then return nil end
  local all, unknown, serving = redis.call('SMEMBERS', key), {}, {}
  for _, who in ipairs(all) do
    if lives[who] == nil then unknown[#unknown + 1] = who end
  end
  if #unknown > 0 then
    local scores = redis.call('ZMSCORE', leases, unpack(unknown))
    for at, who in ipairs(unknown) do
      lives[who] = scores[at] and true
      if lives[who] then
        if not is_full(who) then return nil end
        for _, wait in ipairs(waits[who]) do
          if not is_known[wait.queue] then
            is_known[wait.queue] = true
            order[#order + 1] = wait.queue
          end
        end
      end
    end
  end
  for _, who in ipairs(all) do
    if lives[who] then serving[who] = true end
  end
  return next(serving) and serving
end

local at = 1
while order[at] do
  local serving = full_servers(order[at])
  if not serving then return {} end
  servers[order[at]] = serving
  at = at + 1
end
-- Where this handler does not come round, it would wait for a ring of others, who know it.
if not own then return {} end

-- The way round, from wait to wait: over as few slots of workers that run another agent as there can be.
-- `last` is the wait that is followed by this handler's own one, over a slot of its own worker if `slot`.
local function ring_of(last, slot)
  local path = {{agent = own.agent, slot = slot and incarnation}}
  while last ~= own do
    path[#path + 1] = last
    last = last.before
  end
  local ring, before = {own.agent, ''}, own
  for step = #path, 1, -1 do
    local wait = path[step]
    if wait.slot and wait.agent ~= before.asked then
      ring[#ring + 1] = before.asked
      ring[#ring + 1] = ''
    end
    ring[#ring + 1] = wait.agent
    ring[#ring + 1] = wait.slot or ''
    before = wait
  end
  return ring
end

-- Each agent of a mailbox, each mailbox and each worker is looked at once.
local reached, agents_seen, mailboxes_seen, slots_seen = {[own] = true}, {}, {}, {}
local function first_time(seen, what)
  if seen[what] then return false end
  seen[what] = true
  return true
end
local now = {own}
while now[1] do
  local following = {}
  at = 1
  while now[at] do
    local wait = now[at]
    for _, other in ipairs(first_time(agents_seen, wait.queue .. '\n' .. wait.asked) and by_agent[wait.asked] or {}) do
      pairs_seen = pairs_seen + 1
      if pairs_seen > 2 * MOST_PAIRS then return {} end
      if servers[wait.queue][other.who] then
        if other == own then return ring_of(wait, wait == own) end
        if not reached[other] then
          reached[other], other.before = true, wait
          now[#now + 1] = other
        end
      end
    end
    at = at + 1
  end
  for _, wait in ipairs(now) do
    for who in pairs(first_time(mailboxes_seen, wait.queue) and servers[wait.queue] or {}) do
      if first_time(slots_seen, who) then
        for _, other in ipairs(waits[who]) do
          if other == own then return ring_of(wait, true) end
          if not reached[other] then
            reached[other], other.before, other.slot = true, wait, who
            following[#following + 1] = other
          end
        end
      end
    end
  end
  now = following
end
return {}
