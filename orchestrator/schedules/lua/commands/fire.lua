-- Accepts the messages of schedules that are due, and advances these schedules. Each is compared first: it is unchanged since the
-- caller has read it (revision, next nominal time, running fire), and due by Redis' clock. So whatever number of schedulers decide about
-- the same due time, and however often an answer is lost, one of these decisions counts.
-- KEYS: none; names are built from the root.
-- ARGV: root, most entries of the history, ms until a refused message is tried again, then for each schedule: id; what it was decided by:
-- revision, next nominal time, delivery that runs, or ''; when it is due next, or '' if never; delivery, or '' for no message; queue, or '' if the
-- caller has sent the message itself; level, delay in ms, '' or '0' or '1' if its outcome is waited for ('1': its failure pauses the schedule),
-- message; the decision (see schedule_changes.lua).
-- Returns {now, status, …}: 'fired', 'advanced' (without a message), 'mailbox full' or 'breaker open' (not advanced), 'failed' (the mailbox is
-- none: not advanced), 'broken' (a count is no number: not advanced), 'early', 'stale'. What could fail is checked before a message is accepted, and
-- nothing fails after it: else the same fire would be accepted again.
-- Costs: at most 50 schedules and 1 MB of messages, which the caller sees to; about 70 µs each.
--- @include "mailbox_entry"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "admission"
local root, most, again_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local FIRST, FIXED = 4, 11
local now = now_ms()
local totals, accepted, mailboxes = {}, {}, {}

-- What a mailbox is, looked up once: its flow control, if it has any; false if a key of another type is in its place, which must stop
-- its schedules alone.
local function mailbox_of(queue, level)
  local name = level .. ':' .. queue
  local mailbox = mailboxes[name]
  if mailbox == nil then
    local stream = root .. 'q:' .. name
    local kind = redis.call('TYPE', stream).ok
    mailbox = false
    if kind == 'stream' or kind == 'none' then
      redis.call('SADD', root .. 'queues', queue)
      local flow = root .. 'flow:' .. queue
      mailbox = {stream = stream, flow = redis.call('EXISTS', flow) == 1 and flow}
    end
    mailboxes[name] = mailbox
  end
  return mailbox
end

-- Puts a message into its mailbox; returns why not, if that is full or its breaker open.
local function accept(mailbox, queue, level, delay_ms, delivery, message)
  local admission = mailbox.flow and admit(mailbox.flow, 1)
  if admission and admission.take + admission.drop == 0 then
    return admission.refusal[1] == 'open' and 'breaker open' or 'mailbox full'
  end
  accepted[queue] = (accepted[queue] or 0) + 1
  if admission and admission.drop == 1 then
    overflowed(admission, message)
  elseif delay_ms == '0' then
    redis.call('XADD', mailbox.stream, '*', 'm', message)
    if mailbox.flow then ring_doorbell(mailbox.stream) end
  else
    schedule(root .. 'delayed:' .. queue, root .. 'delayed-body:' .. queue, root .. 'q:bell:' .. queue,
      level .. '|' .. delivery, message, now + tonumber(delay_ms))
  end
  if admission then pcall(after_admission, admission) end
  return nil
end

local function fire(at, more)
  local id, rev, expected, running, due, delivery = unpack(ARGV, at, at + 5)
  local queue, level, delay_ms, waits, message = unpack(ARGV, at + 6, at + 10)
  local state = root .. 'schedule:' .. id
  local f = redis.call('HMGET', state, 'r', 'n', 'u', 'b', 'f', 'c', 'm', 'k')
  if f[1] ~= rev or (f[2] or '') ~= expected or (f[3] or '') ~= running then return 'stale' end
  for at_count = 5, 8 do
    if not schedules.is_number(f[at_count]) then return 'broken' end
  end
  local due_set = schedules.due_set(root, f[4])
  local was_due = redis.call('ZSCORE', due_set, id)
  if not was_due then return 'stale' end
  if tonumber(was_due) > now then return 'early' end
  if delivery ~= '' and queue ~= '' then
    local mailbox = mailbox_of(queue, level)
    if not mailbox then return 'failed' end
    if waits ~= '' then schedules.await(root, state, delivery, waits) end
    local why = accept(mailbox, queue, level, delay_ms, delivery, message)
    if why then
      if waits ~= '' then redis.call('HDEL', root .. 'hooks:' .. delivery, 'schedule', 'pauses') end
      redis.call('HSET', state, 'g', why)
      redis.call('ZADD', due_set, now + again_ms, id)
      return why
    end
  end
  schedules.write(root, most, totals, state, id, more, f[5] or 0)
  if due == '' then redis.call('ZREM', due_set, id) else redis.call('ZADD', due_set, due, id) end
  return delivery ~= '' and 'fired' or 'advanced'
end

local out = {now}
local at = FIRST
while at <= #ARGV do
  local more = at + FIXED
  local ok, status = pcall(fire, at, more)
  -- What was accepted before an error is counted all the same.
  out[#out + 1] = ok and status or 'failed'
  at = schedules.after_decision(more)
end
for queue, number in pairs(accepted) do add_count_afterwards(root .. 'ledger:' .. queue, 'accepted', number) end
schedules.add_totals(root, totals)
return with_events(out)
