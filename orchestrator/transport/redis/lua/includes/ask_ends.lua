--- @include "mailbox_entry"
--- @include "script_events"
--- @include "endings"
--- @include "asks"
--- @include "bulkhead"
-- Asks: requests whose reply is put where it is wanted by the script that ends them. The rule is core/calls/ask.py. An ask is open as long
-- as its record is there; whatever ends it first deletes the record: the outcome of a copy, the time, or the asker. So there is one reply.
-- A record is the hash `ask:ID`:
--   copy:DELIVERY        the deliveries that may answer it: stream, entry, ledger, each on its own line
--   calls                key of the counters of the mailbox that is asked
--   group, outcome_ms    the consumer group of mailboxes; how long outcomes are kept
--   timeout_ms           after how many ms it times out
--   bulkhead             key of the requests in flight that it is one of
--   inbox, inbox_ms, label  stream that gets the outcome, under that label, and how long it is kept
--   fallback, fallback_stream, fallback_ledger, fallback_agent, fallback_id
--                        a message that is sent unless the request is handled: its text, where it goes, its agent and delivery
--   stream, ledger, before, after, asker
--                        the mailbox that gets the reply: the message's text before and after the outcome, as JSON in JSON; the agent
-- Ends a copy that is not needed any more: taken out of its mailbox, or marked, if a worker has it or it was moved.
local function cancel_copy(root, ask, delivery, place, by)
  local key = root .. 'outcome:' .. delivery
  if redis.call('EXISTS', key) == 1 then return end
  local hooks = hooks_of(key)
  redis.call('HDEL', hooks, 'ask')
  local stream, id, ledger = place:match('^([^\n]*)\n([^\n]*)\n(.*)$')
  local outcome = {outcome = 'cancelled', by = by}
  local entry = redis.call('XRANGE', stream, id, id)[1]
  local pending = entry and redis.pcall('XPENDING', stream, ask.group, id, id, 1)
  if entry and (pending.err or not pending[1]) then
    local m, d = fields(entry)
    local headers = (message_of(m) or {}).headers
    redis.call('XDEL', stream, id)
    add_count(ledger, 'cancelled', 1)
    end_for_celery(ledger, m, 'REVOKED', '', by)
    record(key, with_history(outcome, type(headers) == 'table' and headers.orc, d), ask.outcome_ms, 'cancelled')
    return
  end
  -- As find_delivery.lua does. What is nowhere any more leaves its mark, which expires.
  redis.call('HSET', hooks, 'cancel', cjson.encode(outcome), 'cancelling', root .. 'cancelling')
  redis.call('PEXPIRE', hooks, 604800000)
  redis.call('SADD', root .. 'cancelling', key)
  redis.call('PEXPIRE', root .. 'cancelling', 604800000)
end

-- Ends an ask, if it is open: the reply, with this outcome as JSON, unless there is none, is put; the copies but `winner` are cancelled.
-- Returns whether it was open.
asks.finish = function(key, ended, outcome, winner)
  local flat = redis.call('HGETALL', key)
  if #flat == 0 then return false end
  redis.call('DEL', key)
  local root, id = key:match('^(.-orc:)ask:(.*)$')
  redis.call('ZREM', root .. 'timers', 'ask:' .. id)
  local ask, copies = {}, {}
  for at = 1, #flat, 2 do
    local copy = flat[at]:match('^copy:(.*)$')
    if copy then copies[#copies + 1] = {copy, flat[at + 1]} else ask[flat[at]] = flat[at + 1] end
  end
  add_count(ask.calls, ended, 1)
  if ask.bulkhead then leave_bulkhead(ask.bulkhead, id) end
  if outcome and ask.stream then
    -- Its admission is not asked for: a reply must pass a full mailbox, as a compensation does.
    put(ask.stream, ask.before .. within_text(outcome) .. ask.after)
    count_accepted(ask.ledger, 1)
    emit_event('replied', ask.asker, id, ended)
  end
  if outcome and ask.inbox then
    redis.call('XADD', ask.inbox, '*', 'l', ask.label, 'o', outcome)
    redis.call('PEXPIRE', ask.inbox, ask.inbox_ms)
  end
  if outcome and ask.fallback and ended ~= 'handled' then
    put(ask.fallback_stream, ask.fallback)
    count_accepted(ask.fallback_ledger, 1)
    add_count(ask.calls, 'fell_back', 1)
    emit_event('fell_back', ask.fallback_agent, ask.fallback_id, id, ended)
  end
  for _, copy in ipairs(copies) do
    if copy[1] ~= winner then cancel_copy(root, ask, copy[1], copy[2], ended == 'timeout' and 'timeout of its ask' or 'end of its ask') end
  end
  return true
end

-- An ask's time has come. `winner` is the copy that has ended by it, if one has.
asks.time_out = function(key, winner)
  local timeout_ms = redis.call('HGET', key, 'timeout_ms')
  if not timeout_ms then return false end
  return asks.finish(key, 'timeout', cjson.encode({outcome = 'timeout', timeout_s = tonumber(timeout_ms) / 1000}), winner)
end

-- The outcome of a copy is recorded. If its deadline has ended it, the ask has timed out: whether its worker, a sweep or the asker
-- notices first, the reply is the same.
asks.copy_ended = function(key, ended, outcome, copy)
  if ended == 'dead' and (read_json(outcome) or {}).reason == 'deadline passed' then return asks.time_out(key, copy) end
  return asks.finish(key, ended, outcome, copy)
end
