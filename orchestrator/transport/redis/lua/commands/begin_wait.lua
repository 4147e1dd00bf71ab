-- Records that a handler waits in a call, and finds out whether that would wait for itself: whether all slots of all workers that could
-- answer wait in calls, each for agents of which the same is true.
-- KEYS: asking, leases. ARGV: root, incarnation, delivery, the mailbox that is called, the agent that calls.
-- `asking` is a hash: incarnation, newline, delivery -> mailbox that is called, newline, agent that calls.
-- Returns the agents of the ring, from the one that calls to itself; nothing if there is none, or if it cannot be known.
-- Costs: two commands; where other handlers wait too, one for each of at most 200 workers, and for each of at most 1,000 waits.
--- @include "mailbox_entry"
local asking, leases = KEYS[1], KEYS[2]
local root, incarnation, delivery, callee, caller = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local MOST_WORKERS, MOST_WAITS = 200, 1000
redis.call('HSET', asking, incarnation .. '\n' .. delivery, callee .. '\n' .. caller)
if redis.call('HLEN', asking) > MOST_WAITS then return {} end

-- The waits that are no memories: their incarnation lives, and there is no outcome yet.
local waits, agents = {}, {}
local flat = redis.call('HGETALL', asking)
for at = 1, #flat, 2 do
  local who, what = flat[at]:match('^(.*)\n(.*)$')
  local queue, agent = flat[at + 1]:match('^(.*)\n(.*)$')
  if not redis.call('ZSCORE', leases, who) then
    redis.call('HDEL', asking, flat[at])
  elseif redis.call('EXISTS', root .. 'outcome:' .. what) == 0 then
    waits[who] = waits[who] or {}
    table.insert(waits[who], queue)
    agents[who .. '\n' .. queue] = agent
  end
end

local workers = {}
local function describe(who)
  local f = redis.call('HMGET', root .. 'incarnation:' .. who, 'queues', 'concurrency')
  local queues = {}
  for _, queue in ipairs(f[1] and queues_in(f[1]) or {}) do queues[queue] = true end
  workers[#workers + 1] = {id = who, queues = queues, slots = tonumber(f[2] or '') or 0}
  return workers[#workers]
end

-- Few wait in most moments: whether any of these could be in a ring with this one.
local candidate = false
local seen_worker = {}
for who in pairs(waits) do
  local worker = describe(who)
  seen_worker[who] = true
  if worker.queues[callee] and worker.slots > 0 and #waits[who] >= worker.slots then candidate = true end
end
if not candidate or redis.call('ZCARD', leases) > MOST_WORKERS then return {} end
for _, who in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
  if not seen_worker[who] then describe(who) end
end

-- All mailboxes that the answer depends on: none of them may have a slot that does not wait. `by` has for each the mailbox whose
-- agent waits for it, and that agent.
local by, order = {[callee] = {}}, {callee}
local closes
local at = 1
while order[at] do
  local queue, served = order[at], false
  for _, worker in ipairs(workers) do
    if worker.queues[queue] then
      served = true
      local waiting = waits[worker.id] or {}
      if worker.slots == 0 or #waiting < worker.slots then return {} end
      if worker.id == incarnation then closes = closes or queue end
      for _, other in ipairs(waiting) do
        if not by[other] then
          by[other] = {queue, agents[worker.id .. '\n' .. other]}
          order[#order + 1] = other
        end
      end
    end
  end
  if not served then return {} end
  at = at + 1
end
-- Where this handler does not come round, it would wait for a ring of others, who know it.
if not closes then return {} end
local ring = {caller}
while closes ~= callee do
  table.insert(ring, 1, by[closes][2])
  closes = by[closes][1]
end
table.insert(ring, 1, caller)
return ring
