-- Accepts a message for each of many mailboxes, in one step. A mailbox that nobody living serves, that is full or whose
-- breaker is open takes none; `all` says whether that stops the others too.
-- KEYS: leases, group or '' (of a broadcast with a compensation), hash of last publishes.
-- ARGV: the broadcast's id, root, '1' for all or nothing, ms a group lives, nonce, number of texts, texts…,
--   then of each recipient: queue, step, message, delivery's id, member or ''
-- Returns {accepted, {{number of a recipient from 1, why not, …}, …}}
local id, publishes = table.remove(ARGV, 1), KEYS[3]
-- Asked twice, because the first answer was lost: it is sent once, and answered alike.
local answered = redis.call('HGET', publishes, id)
if answered then return cjson.decode(answered) end
local root, all = ARGV[1], ARGV[2] == '1'
local served = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local queues = redis.call('HGET', root .. 'incarnation:' .. id, 'queues')
  if queues then
    for _, queue in ipairs(queues_in(queues) or {}) do served[queue] = true end
  end
end
local base = 5 + tonumber(ARGV[5])
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
if all then
  for r = 1, recipients do
    local _, why = enter(ARGV[base + 5 * r - 4], true)
    if why then refuse(r, why) end
  end
  if #refusals > 0 then return {0, refusals} end
end
local accepted = 0
for r = 1, recipients do
  local at = base + 5 * r
  local queue = ARGV[at - 4]
  local door, why = enter(queue, false)
  if why then
    refuse(r, why)
  else
    put(root .. 'q:' .. ARGV[at - 3] .. ':' .. queue, ARGV[at - 2])
    redis.call('HINCRBY', root .. 'ledger:' .. queue, 'accepted', 1)
    if ARGV[at] ~= '' then
      redis.call('HSET', root .. 'hooks:' .. ARGV[at - 1], 'group', KEYS[2], 'member', ARGV[at])
      redis.call('PEXPIRE', root .. 'hooks:' .. ARGV[at - 1], ARGV[3])
    end
    if door then close_door(door) end
    accepted = accepted + 1
  end
end
if KEYS[2] ~= '' and accepted > 0 then
  redis.call('HSET', KEYS[2], 'root', root, 'nonce', ARGV[4], 'pending', accepted)
  for t = 1, tonumber(ARGV[5]) do redis.call('HSET', KEYS[2], 'text:' .. t, ARGV[5 + t]) end
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
redis.call('HSET', publishes, id, cjson.encode({accepted, refusals}))
redis.call('PEXPIRE', publishes, 900000)
return answer({accepted, refusals})
