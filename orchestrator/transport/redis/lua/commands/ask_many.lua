-- Accepts the requests of asks of one asker, whose replies are messages, as ask.lua accepts one.
-- KEYS: stream, ledger, timers, counters of calls, hash of last publishes.
-- ARGV: root, token of the publish (see publish_dedup.py), ms after which they time out, how many names and values follow that the
-- records of all asks have, these names and values; then of each ask its id, which is its delivery's too, its message, and the text of
-- the reply before the outcome and after it.
-- Returns how many were accepted: 0 if the mailbox' flow control has to be asked, which ask.lua does for each. A repeated call accepts nothing, and
-- returns their number again.
-- Costs: about 25 µs for each and what they weigh; callers bound both.
--- @include "clock"
--- @include "needs_admission"
local stream, ledger, timers, calls, publishes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local root, token, timeout_ms, shared = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local FIRST_SHARED, PER_ASK = 5, 4
local first = FIRST_SHARED + shared
local count = (#ARGV - first + 1) / PER_ASK
-- As is_repeated_publish() and flow_of() of mailbox_entry.lua, without what else that part defines.
local connection = token:sub(1, 16)
local last = redis.call('HGET', publishes, connection)
if last == token then return count end
local flow = ledger:gsub('orc:ledger:', 'orc:flow:', 1)
if needs_admission(flow) then return 0 end
redis.call('HSET', publishes, connection, token)
if not last then redis.call('PEXPIRE', publishes, 900000) end
local record = {'HSET', '', 'calls', calls, '', '', 'before', '', 'after', '', unpack(ARGV, FIRST_SHARED, first - 1)}
local ASK, COPY, PLACE, BEFORE, AFTER = 2, 5, 6, 8, 10
local due = {'ZADD', timers}
local at_ms = string.format('%.0f', now_ms() + timeout_ms)
for at = first, #ARGV, PER_ASK do
  local id, message, before, after = unpack(ARGV, at, at + PER_ASK - 1)
  local ask = root .. 'ask:' .. id
  record[ASK], record[COPY], record[BEFORE], record[AFTER] = ask, 'copy:' .. id, before, after
  record[PLACE] = stream .. '\n' .. redis.call('XADD', stream, '*', 'm', message) .. '\n' .. ledger
  redis.call(unpack(record))
  redis.call('HSET', root .. 'hooks:' .. id, 'ask', ask)
  due[#due + 1], due[#due + 2] = at_ms, 'ask:' .. id
end
redis.call(unpack(due))
redis.pcall('HINCRBY', calls, 'asked', count)
local accepted = redis.pcall('HINCRBY', ledger, 'accepted', count)
if type(accepted) == 'table' then

--- @include "count_or_undo"

  accepted = count_or_undo(ledger, 'accepted', count, stream, accepted.err)
end
if accepted == count then
  redis.call('SADD', root .. 'queues', ledger:sub(#root + #'ledger:' + 1))
end
return count
