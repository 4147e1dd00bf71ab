-- Ends an attempt and schedules the next one, as one step.
-- KEYS: stream, ledger, delayed, bodies, bell, outcome if its delivery is tracked.
-- ARGV: group, entry id, member, message, delay in ms, ms to keep the outcome.
-- A step of a paused run is not due before the run is resumed.
-- Returns 1; 0 if the entry is no longer pending, which counts as duplicated.
-- Costs: one message, which is read and written; decoded if it was cancelled.
--- @include "mailbox_entry"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "breaker"
--- @include "cancel_mark"
--- @include "end_permits"
local stream, ledger, delayed, bodies, bell, outcome_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local group, entry_id, member, message, delay_ms, ttl_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
-- Raises if they are keys of another type, as long as nothing is done: the message would be lost.
redis.call('ZCARD', delayed)
redis.call('HLEN', bodies)
if redis.call('XACK', stream, group, entry_id) == 0 then
  add_count_afterwards(ledger, 'duplicated', 1)
  return 0
end
-- Its deaths are of the message, not of the attempt. That a holder died before it was seen to start says nothing any
-- more: this attempt has started, and ended.
local entry = redis.call('XRANGE', stream, entry_id, entry_id)[1]
local _, d, s
if entry then _, d, _, _, s = fields(entry) end
-- The message says when it was sent, as far as its worker knows: that is this entry's id.
if s == entry_id:match('^%d+') then s = nil end
redis.call('XDEL', stream, entry_id)
if outcome_key and cancelled_meanwhile(outcome_key, ledger, message, d, ttl_ms) then
  end_attempts(ledger, stream, {entry_id})
  breaker_failed(flow_of(ledger), message)
  return with_events(1)
end
schedule(delayed, bodies, bell, member, message, now_ms() + tonumber(delay_ms), d, s)
end_attempts(ledger, stream, {entry_id})
add_count_afterwards(ledger, 'retried', 1)
local run_key = outcome_key and redis.call('HGET', hooks_of(outcome_key), 'run')
if run_key then
  local waits = delayed .. '\n' .. bell .. '\n' .. member
  redis.call('HSET', hooks_of(outcome_key), 'waits', waits)
  local run = redis.call('HGET', run_key, 'paused') == '1' and runs.open(run_key)
  if run then runs.postpone(run, waits) end
end
breaker_failed(flow_of(ledger), message)
return with_events(1)
