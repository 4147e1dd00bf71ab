-- Hands on what a fenced incarnation held, some entries at a time.
-- KEYS: dying, incarnation, queues, sweep.
-- ARGV: root, id, group, max deaths, ms to keep outcomes, batch, linger ms, turn or '', ms a turn lasts,
--   1 if what its death entails is done, 0 if not, '' of a sweeper that does not know what deaths entail, steps…
-- An incarnation whose field on_death is set entails something; nobody forgets it until somebody has done that.
-- The incarnation lingers in `dying`: a read that was blocked in Redis when it died may still be served to it.
-- Returns {entries moved, 1 if there may be more, dead letters made}
--- @include "mailbox_entry"
--- @include "endings"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "breaker"
--- @include "dead_letters"
--- @include "cancel_mark"
--- @include "requeue"
even_when_full(KEYS[1])
local stale = turn_lost(KEYS[4], ARGV[8], ARGV[9])
if stale then return stale end
local root, id, group = ARGV[1], ARGV[2], ARGV[3]
local budget = tonumber(ARGV[6])
local reason = redis.call('HGET', KEYS[2], 'reason') or 'lost'
-- Whoever ends a worker that was told to stop (a container runtime, a process manager, in the end by SIGKILL) does so for
-- no message's fault.
local planned = reason == 'drained' or reason == 'deployed' or redis.call('HGET', KEYS[2], 'stopping') == '1'
local names = redis.call('HGET', KEYS[2], 'queues')
local queues = names and queues_in(names) or redis.call('SMEMBERS', KEYS[3])
local now = now_ms()
local moved, buried, bytes = 0, 0, 0
for _, queue in ipairs(queues) do
  for s = 11, #ARGV do
    local stream = root .. 'q:' .. ARGV[s] .. ':' .. queue
    if budget - moved <= 0 then return answer({moved, 1, buried}) end
    local pending = redis.pcall('XPENDING', stream, group, '-', '+', budget - moved, id)
    if not pending.err then
      for _, p in ipairs(pending) do
        if bytes >= MOST_BYTES then return answer({moved, 1, buried}) end
        if ARGV[s] == 'bell' then
          take(stream, group, p[1])
        else
          -- A delivery counter of 2 is the mark that says: this one was being executed; 3: and nothing beside it
          -- (see held_claims.py); 0: it was claimed ahead, and nobody has looked at it.
          local mark = tonumber(p[4])
          local death, unattributed = nil, 0
          if not planned then
            if mark >= 2 then death = {reason = reason, by = id, at = now, alone = mark >= 3 or nil}
            elseif mark == 1 then unattributed = 1 end
          end
          local said, size = requeue(root, queue, stream, group, p[1], death, unattributed, tonumber(ARGV[4]), ARGV[5],
            mark >= 2 and reason ~= 'drained' and reason ~= 'deployed', mark == 0)
          if said == 'poison' or said == 'workers lost' then buried = buried + 1 end
          bytes = bytes + (size or 0)
        end
        moved = moved + 1
      end
    end
  end
end
local entails = ARGV[10] == '0' or ARGV[10] == '' and redis.call('HEXISTS', KEYS[2], 'on_death') == 1
if entails then return answer({moved, 0, buried}) end
if now - tonumber(redis.call('ZSCORE', KEYS[1], id) or now) < tonumber(ARGV[7]) then return answer({moved, 0, buried}) end
for _, queue in ipairs(queues) do
  for s = 11, #ARGV do redis.pcall('XGROUP', 'DELCONSUMER', root .. 'q:' .. ARGV[s] .. ':' .. queue, group, id) end
end
redis.call('ZREM', KEYS[1], id)
redis.call('DEL', KEYS[2])
return answer({moved, 0, buried})
