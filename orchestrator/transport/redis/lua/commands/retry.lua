-- Ends an attempt and schedules the next one, as one step.
-- KEYS: stream, ledger, delayed, bodies, bell, outcome if its delivery is tracked.
-- ARGV: group, id, member, message, delay in ms, ms to keep the outcome
--- @include "mailbox_entry"
--- @include "endings"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "breaker"
--- @include "cancel_mark"
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then
  redis.call('HINCRBY', KEYS[2], 'duplicated', 1)
  return 0
end
-- Its deaths are of the message, not of the attempt. That a holder died before it was seen to start says nothing any
-- more: this attempt has started, and ended.
local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
local _, d, s
if entry then _, d, _, _, s = fields(entry) end
-- The message says when it was sent, as far as its worker knows: that is this entry's id.
if s == ARGV[2]:match('^%d+') then s = nil end
redis.call('XDEL', KEYS[1], ARGV[2])
if KEYS[6] and cancelled_meanwhile(KEYS[6], KEYS[2], ARGV[4], d, ARGV[6]) then
  breaker_failed(flow_of(KEYS[2]))
  return answer(1)
end
schedule(KEYS[3], KEYS[4], KEYS[5], ARGV[3], ARGV[4], now_ms() + tonumber(ARGV[5]), d, s)
redis.call('HINCRBY', KEYS[2], 'retried', 1)
breaker_failed(flow_of(KEYS[2]))
return answer(1)
