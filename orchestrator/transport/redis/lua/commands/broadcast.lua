-- Accepts a message for each of many mailboxes, in one step. A mailbox without a living consumer, a full one and one with an
-- open breaker take none; `all` says whether that stops the others too. A broadcast that may leave some out comes in parts, each
-- a step of its own.
-- KEYS: leases, hash of last publishes; of a broadcast with a compensation also its group.
-- ARGV: the part's id, root, '1' for all or nothing, ms a group lives, nonce, by how much the group's number of pending copies
-- is to differ from those accepted here, number of texts, texts…, then of each recipient: queue, level, message, delivery's id,
-- member or ''.
-- Returns {accepted, {{number of a recipient from 1, reason, …}, …}}. A repeated call returns the first reply.
-- Costs: about 10 µs a recipient, 60 µs if its mailbox has flow control, and what the messages weigh; callers bound both.
--- @include "mailbox_entry"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "dead_letters"
--- @include "admission"
--- @include "is_served"
local leases, publishes, group = KEYS[1], KEYS[2], KEYS[3]
local id, root, all, group_ttl_ms, nonce = ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4], ARGV[5]
local ahead, texts = tonumber(ARGV[6]), tonumber(ARGV[7])
local FIRST_TEXT, PER_RECIPIENT = 8, 5
local answered = redis.call('HGET', publishes, id)
if answered then return cjson.decode(answered) end
local first_recipient = FIRST_TEXT + texts
local recipients = (#ARGV - first_recipient + 1) / PER_RECIPIENT

-- Queue, level, message, delivery's id, member or ''.
local function recipient(number)
  local at = first_recipient + PER_RECIPIENT * (number - 1)
  return unpack(ARGV, at, at + PER_RECIPIENT - 1)
end

local function enter(queue, peek)
  if not is_served(leases, root .. 'servers:' .. queue) then return nil, {'down'} end
  local admission = admit(root .. 'flow:' .. queue, 1, true, peek)
  if admission and admission.take == 0 then return nil, admission.refusal end
  return admission
end

local refusals = {}
local function refuse(number, why)
  refusals[#refusals + 1] = {number, unpack(why)}
end
local looked_at = {}
if all then
  for r = 1, recipients do
    local admission, why = enter((recipient(r)), true)
    if why then refuse(r, why) end
    looked_at[r] = admission or false
  end
  if #refusals > 0 then return {0, refusals} end
end
local accepted = 0
for r = 1, recipients do
  local queue, level, message, delivery, member = recipient(r)
  local admission, why = looked_at[r], nil
  -- Each is another mailbox, so what was seen of it still holds.
  if admission == nil or admission and not admission.is_asked then
    admission, why = enter(queue, false)
  end
  if why then
    refuse(r, why)
  else
    put(root .. 'q:' .. level .. ':' .. queue, message)
    count_accepted(root .. 'ledger:' .. queue, 1)
    if member ~= '' then
      redis.call('HSET', root .. 'hooks:' .. delivery, 'group', group, 'member', member)
      redis.call('PEXPIRE', root .. 'hooks:' .. delivery, group_ttl_ms)
    end
    if admission then after_admission(admission) end
    accepted = accepted + 1
  end
end
if group and accepted + ahead ~= 0 then
  -- As long as parts are to come the group has one more pending copy than there are, so that it does not end.
  if redis.call('HINCRBY', group, 'pending', accepted + ahead) <= 0 then
    redis.call('DEL', group, group .. ':handled')
  else
    redis.call('HSET', group, 'root', root, 'nonce', nonce)
    for t = 1, texts do redis.call('HSET', group, 'text:' .. t, ARGV[FIRST_TEXT - 1 + t]) end
    redis.call('PEXPIRE', group, group_ttl_ms)
  end
end
redis.call('HSET', publishes, id, cjson.encode({accepted, refusals}))
redis.call('PEXPIRE', publishes, 900000)
return with_events({accepted, refusals})
