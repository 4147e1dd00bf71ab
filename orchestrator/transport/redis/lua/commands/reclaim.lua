-- Requeues what a fenced incarnation held, some entries at a time.
-- KEYS: dying, incarnation, queues, sweep.
-- ARGV: root, id, group, max deaths, ms to keep outcomes, batch, linger ms, turn or '', ms a turn lasts, '1' if its death hooks
-- are done, '0' if not, '' from a sweeper that does not run death hooks, levels…
-- An incarnation whose field on_death is set has death hooks; it is not forgotten until they are done.
-- The incarnation lingers in `dying`: a read that was blocked in Redis when it died may still be served to it.
-- Returns {entries moved, 1 if there may be more, dead letters made}; if something else has written a key of a mailbox, then also that mailbox and
-- the error. Those of other mailboxes are requeued, and the incarnation is not forgotten.
-- Costs: at most `batch` entries, of 1 MB and one message.
--- @include "mailbox_entry"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "breaker"
--- @include "requeue"
--- @include "unreadable"
local dying, incarnation_key, queues_key, sweep = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local root, id, group, ttl_ms, linger_ms, token = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[7], ARGV[8]
local turn_ms, hooks_done = ARGV[9], ARGV[10]
local max_deaths, budget = tonumber(ARGV[4]), tonumber(ARGV[6])
local FIRST_LEVEL = 11
even_when_full(dying)
local stale = turn_lost(sweep, token, turn_ms)
if stale then return stale end
-- A record that something else has overwritten says nothing.
local told = redis.pcall('HMGET', incarnation_key, 'reason', 'stopping', 'queues', 'on_death')
local reason = told[1] or 'lost'
-- A worker that was asked to stop may be killed in the end (by a container runtime or a process manager): no message is
-- suspect.
local has_left = reason == 'drained' or reason == 'deployed'
local planned = has_left or told[2] == '1'
local names = told[3]
local queues = names and queues_in(names) or redis.call('SMEMBERS', queues_key)
local now = now_ms()
local moved, dead_lettered, bytes = 0, 0, 0

-- Requeues what was held of a mailbox; returns whether this script has done enough.
local function requeue_held_of(queue)
  for s = FIRST_LEVEL, #ARGV do
    local stream = root .. 'q:' .. ARGV[s] .. ':' .. queue
    if budget - moved <= 0 then return true end
    local pending = redis.pcall('XPENDING', stream, group, '-', '+', budget - moved, id)
    if not pending.err then
      for _, p in ipairs(pending) do
        if bytes >= MOST_BYTES then return true end
        if ARGV[s] == 'bell' then
          take(stream, group, p[1])
        else
          -- The delivery counter is a mark (see held_claims.py): 2, it was being executed; 3, alone; 0, it was claimed ahead and not
          -- looked at. A pool may start on a message just before its mark is 2, so one at 1 may have begun.
          local mark = tonumber(p[4])
          local death, unattributed = nil, 0
          if not planned then
            if mark >= 2 then death = {reason = reason, by = id, at = now, alone = mark >= 3 or nil}
            elseif mark == 1 then unattributed = 1 end
          end
          local result, size = requeue(root, queue, stream, group, p[1], death, unattributed, max_deaths, ttl_ms,
            mark >= 2 and not has_left, mark == 0, mark >= 2 or mark == 1 and not has_left)
          if result == 'poison' or result == 'workers lost' then dead_lettered = dead_lettered + 1 end
          bytes = bytes + (size or 0)
        end
        moved = moved + 1
      end
    end
  end
  return false
end

local unreadable, why, is_enough
for _, queue in ipairs(queues) do
  local ok, result = pcall(requeue_held_of, queue)
  if not ok then
    unreadable, why = queue, why_unreadable(result)
  elseif result then
    is_enough = true
    break
  end
end
-- For the parent of its process, which may come later with the way it has ended.
if moved > 0 and told[1] then
  redis.pcall('HINCRBY', incarnation_key, 'requeued', moved)
  redis.pcall('HINCRBY', incarnation_key, 'dead_lettered', dead_lettered)
end
if is_enough then return with_events({moved, 1, dead_lettered}) end
if unreadable then return with_events({moved, 0, dead_lettered, unreadable, why}) end
local has_death_hooks = hooks_done == '0' or hooks_done == '' and told[4]
if has_death_hooks then return with_events({moved, 0, dead_lettered}) end
if now - tonumber(redis.call('ZSCORE', dying, id) or now) < tonumber(linger_ms) then return with_events({moved, 0, dead_lettered}) end
for _, queue in ipairs(queues) do
  for s = FIRST_LEVEL, #ARGV do redis.pcall('XGROUP', 'DELCONSUMER', root .. 'q:' .. ARGV[s] .. ':' .. queue, group, id) end
end
redis.call('ZREM', dying, id)
redis.call('DEL', incarnation_key)
return with_events({moved, 0, dead_lettered})
