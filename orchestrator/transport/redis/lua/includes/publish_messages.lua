-- The whole of publish.lua, and of request.lua once it has taken what is its own out of ARGV.
local stream, ledger, publishes = KEYS[1], KEYS[2], KEYS[3]
local token = ARGV[2]
local limit = tonumber(ARGV[1])
local FIRST_MESSAGE = 3
local wanted = #ARGV - FIRST_MESSAGE + 1
if publishes then
  -- As is_repeated_publish() in mailbox_entry.lua, which Redis need not even make for most messages.
  local connection = token:sub(1, 16)
  local last = redis.call('HGET', publishes, connection)
  if last == token then return last end
  redis.call('HSET', publishes, connection, token)
  if not last then redis.call('PEXPIRE', publishes, 900000) end
end
if limit < 0 then
  -- The process that waited for this reply has ended, and its queue with it.
  if redis.call('EXISTS', stream) == 0 then return '' end
  limit = 0
end
local flow = ledger:gsub('orc:ledger:', 'orc:flow:', 1)
--- @include "needs_admission"
local bounded = needs_admission(flow)
if not bounded and limit == 0 then
  local last
  for i = FIRST_MESSAGE, #ARGV do last = redis.call('XADD', stream, '*', 'm', ARGV[i]) end
  local accepted = redis.call('PTTL', stream) < 0 and redis.pcall('HINCRBY', ledger, 'accepted', wanted)
  if type(accepted) == 'table' then

--- @include "count_or_undo"

    accepted = count_or_undo(ledger, 'accepted', wanted, stream, accepted.err)
  end
  if accepted == wanted then
    -- As count_accepted() in mailbox_entry.lua.
    local root, queue = ledger:match('^(.-orc:)ledger:(.*)$')
    redis.call('SADD', root .. 'queues', queue)
  end
  return last
end

--- @include "mailbox_entry"
--- @include "endings"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "admission"
--- @include "drop_messages"

-- From here on there is a bound, a breaker, or a longest length.
-- How long the outcome of what `x-max-length` drops can be asked for: the transport's default.
local EXPIRED_TTL_MS = 3600000
local admission = admit(flow, wanted, false, false, function(number) return ARGV[FIRST_MESSAGE - 1 + number] end)
local last = ''
if admission and admission.refusal and publishes then forget_publish(publishes, token) end
local taken = admission and admission.take or wanted
local deferring = admission and admission.deferring or 0
for i = FIRST_MESSAGE, FIRST_MESSAGE - 1 + deferring do
  last = defer(flow, admission.root, admission.queue, stream, ARGV[i])
end
for i = FIRST_MESSAGE + deferring, FIRST_MESSAGE - 1 + taken do last = redis.call('XADD', stream, '*', 'm', ARGV[i]) end
local counted = redis.call('PTTL', stream) < 0
if counted then count_accepted(ledger, admission and admission.take + admission.drop or wanted) end
if limit > 0 then
  local root = ledger:sub(1, ledger:find('orc:ledger:', 1, true) + 3)
  local over = redis.call('XLEN', stream) - claimed_in(stream) - limit
  if over > 0 then
    drop_waiting(stream, unread_from(stream), math.min(over, taken + MOST_MORE_DROPPED), function(entry)
      redis.call('XDEL', stream, entry[1])
      if not counted then return end
      add_count(ledger, 'expired', 1)
      local m, d = fields(entry)
      record_if_tracked(root, m, {outcome = 'expired'}, EXPIRED_TTL_MS, d)
      end_for_celery(ledger, m, 'REVOKED', 'expired', 'it was the oldest in a full queue (x-max-length)')
    end)
  end
end
if taken > deferring then ring_doorbell(stream) end
if not admission then return last end
for i = admission.take + 1, admission.take + admission.drop do overflowed(admission, ARGV[FIRST_MESSAGE - 1 + i]) end
after_admission(admission)
if deferring > 0 then let_admitted_go(flow, admission.root, admission.queue) end
return with_events(admission.refusal and refused(admission) or last)
