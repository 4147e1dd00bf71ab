-- Accepts messages of a schedule beside its due times: a trigger, or a part of a backfill.
-- KEYS: its state, schedules, mark of this request.
-- ARGV: root, id, most entries of the history, then for each: queue, level, message, the decision (see schedule_changes.lua).
-- Returns {number accepted, why not the others (see admission.lua) or ''}; -1 if there is no such schedule. A repeated request that has accepted
-- something returns the same again. Without a queue the caller has sent the message itself.
-- Costs: at most 50 messages and 1 MB, which the caller sees to.
--- @include "mailbox_entry"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "admission"
local state, definitions, request = KEYS[1], KEYS[2], KEYS[3]
local root, id, most = ARGV[1], ARGV[2], ARGV[3]
local FIRST, FIXED = 4, 3
local done = redis.call('GET', request)
if done then return cjson.decode(done) end
if redis.call('HEXISTS', definitions, id) == 0 then return {-1, ''} end
local totals, accepted, refusal = {}, 0, ''
local at = FIRST
while at <= #ARGV do
  local queue, level, message = unpack(ARGV, at, at + 2)
  if queue ~= '' then
    redis.call('SADD', root .. 'queues', queue)
    local flow = root .. 'flow:' .. queue
    local admission = admit(flow, 1)
    if admission and admission.take + admission.drop == 0 then
      refusal = admission.refusal
      break
    end
    add_count(root .. 'ledger:' .. queue, 'accepted', 1)
    if admission and admission.drop == 1 then
      overflowed(admission, message)
    else
      put(root .. 'q:' .. level .. ':' .. queue, message)
    end
    if admission then after_admission(admission) end
  end
  accepted = accepted + 1
  schedules.write(root, most, totals, state, id, at + FIXED)
  at = schedules.after_decision(at + FIXED)
end
if accepted > 0 or refusal == '' then redis.call('SET', request, cjson.encode({accepted, refusal}), 'PX', 900000) end
schedules.add_totals(root, totals)
return with_events({accepted, refusal})
