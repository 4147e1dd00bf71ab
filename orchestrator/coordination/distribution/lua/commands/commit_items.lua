-- Accepts all staged items of a distribution, or none: from here on they are sent, whoever lives (see release_items.lua).
-- KEYS: staged items, the distribution's record, timers, counts of coordination, and of one with an idempotency key: that key.
-- ARGV: root, the distribution's id, number of items, ms that the record is kept, what is recorded under the key or '', ms that it is
-- remembered, then of each mailbox: queue, its number of items.
-- Returns {'accepted'}; {'duplicate', what is recorded} if another one was accepted under the key; {'lost'} if staged items have
-- expired; {'refused', {queue, reason}, …} if a mailbox does not take its items: `full` or `open`. Unless it is accepted, nothing is
-- staged any more. A repeated call returns the first reply.
-- Costs: 60 µs a mailbox with flow control, of which callers name at most 200.
--- @include "mailbox_entry"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "dead_letters"
--- @include "admission"
local staged, record, timers, counts, idempotency_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local root, id, items, keep_ms, remembered, remembered_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local FIRST, PER_MAILBOX, PER_ITEM = 7, 2, 2
local answered = redis.call('GET', record)
if answered then return cjson.decode(answered) end

local function answer(reply)
  redis.call('SET', record, cjson.encode(reply), 'PX', keep_ms)
  return with_events(reply)
end

local first = idempotency_key and redis.call('GET', idempotency_key)
if first then
  redis.call('DEL', staged)
  return {'duplicate', first}
end

if redis.call('LLEN', staged) ~= PER_ITEM * items then
  redis.call('DEL', staged)
  return answer({'lost'})
end

-- Unlike those of a send, items are not dropped, nor do they push out what waits: where they would be, they are refused.
local admissions, reply = {}, {'refused'}
for at = FIRST, #ARGV, PER_MAILBOX do
  local queue, wanted = ARGV[at], tonumber(ARGV[at + 1])
  local admission = admit(root .. 'flow:' .. queue, wanted, true, true)
  if admission then
    if admission.take < wanted then
      reply[#reply + 1] = {queue, admission.refusal[1]}
    elseif admission.limit > 0 and admission.before + wanted > admission.limit then
      reply[#reply + 1] = {queue, 'full'}
    end
    admissions[#admissions + 1] = admission
  end
end
if #reply > 1 then
  redis.call('DEL', staged)
  return answer(reply)
end
for _, admission in ipairs(admissions) do
  if not admission.is_asked then admit(admission.flow, admission.take, true) end
  after_admission(admission)
end
redis.call('PERSIST', staged)
if idempotency_key then redis.call('SET', idempotency_key, remembered, 'PX', remembered_ms) end
redis.call('ZADD', timers, now_ms(), 'items:' .. id)
add_count(counts, 'distributions', 1)
add_count(counts, 'items', items)
return answer({'accepted'})
