-- Accepts a message for each of many mailboxes, in one step. A mailbox that nobody living serves, that is full or whose
-- breaker is open takes none; `all` says whether that stops the others too. A broadcast that may leave some out comes in parts,
-- each a step of its own.
-- KEYS: leases, group or '' (of a broadcast with a compensation), hash of last publishes.
-- ARGV: the part's id, root, '1' for all or nothing, ms a group lives, nonce, by how much the group's number of pending
--   copies is to differ from those accepted here, number of texts, texts…,
--   then of each recipient: queue, step, message, delivery's id, member or ''
-- Returns {accepted, {{number of a recipient from 1, why not, …}, …}}
-- Costs: about 10 µs a recipient, 60 µs if its mailbox has flow control, and what the messages weigh; callers bound both.
--- @include "mailbox_entry"
--- @include "endings"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "breaker"
--- @include "dead_letters"
--- @include "admission"
local id, publishes = table.remove(ARGV, 1), KEYS[3]
-- Asked twice, because the first answer was lost: it is sent once, and answered alike.
local answered = redis.call('HGET', publishes, id)
if answered then return cjson.decode(answered) end
local root, all, group_ttl_ms, nonce, ahead = ARGV[1], ARGV[2] == '1', ARGV[3], ARGV[4], tonumber(ARGV[5])
local texts = tonumber(ARGV[6])
local group = KEYS[2]
local served = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local queues = redis.call('HGET', root .. 'incarnation:' .. id, 'queues')
  if queues then
    for _, queue in ipairs(queues_in(queues) or {}) do served[queue] = true end
  end
end
local base = 6 + texts
local recipients = (#ARGV - base) / 5

local function enter(queue, peek)
  if not served[queue] then return nil, {'down'} end
  local door = open_door(root .. 'flow:' .. queue, 1, true, peek)
  if door and door.take == 0 then return nil, door.refusal end
  return door
end

local refusals = {}
local function refuse(number, why)
  refusals[#refusals + 1] = {number, unpack(why)}
end
local looked_at = {}
if all then
  for r = 1, recipients do
    local door, why = enter(ARGV[base + 5 * r - 4], true)
    if why then refuse(r, why) end
    looked_at[r] = door or false
  end
  if #refusals > 0 then return {0, refusals} end
end
local accepted = 0
for r = 1, recipients do
  local at = base + 5 * r
  local queue = ARGV[at - 4]
  local door, why = looked_at[r], nil
  -- Each is another mailbox, so what was seen of it still holds.
  if door == nil or door and not door.is_asked then door, why = enter(queue, false) end
  if why then
    refuse(r, why)
  else
    put(root .. 'q:' .. ARGV[at - 3] .. ':' .. queue, ARGV[at - 2])
    redis.call('HINCRBY', root .. 'ledger:' .. queue, 'accepted', 1)
    if ARGV[at] ~= '' then
      redis.call('HSET', root .. 'hooks:' .. ARGV[at - 1], 'group', group, 'member', ARGV[at])
      redis.call('PEXPIRE', root .. 'hooks:' .. ARGV[at - 1], group_ttl_ms)
    end
    if door then close_door(door) end
    accepted = accepted + 1
  end
end
if group ~= '' and accepted + ahead ~= 0 then
  -- As long as parts are to come the group has one more pending copy than there are, so that it does not end.
  if redis.call('HINCRBY', group, 'pending', accepted + ahead) <= 0 then
    redis.call('DEL', group, group .. ':handled')
  else
    redis.call('HSET', group, 'root', root, 'nonce', nonce)
    for t = 1, texts do redis.call('HSET', group, 'text:' .. t, ARGV[6 + t]) end
    redis.call('PEXPIRE', group, group_ttl_ms)
  end
end
redis.call('HSET', publishes, id, cjson.encode({accepted, refusals}))
redis.call('PEXPIRE', publishes, 900000)
return answer({accepted, refusals})
