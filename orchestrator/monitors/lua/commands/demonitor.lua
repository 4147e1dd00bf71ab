-- Ends a monitor. If it has ended before and its DOWN may still wait somewhere, the DOWN is marked as not wanted any more.
-- KEYS: monitors, counter, flushed, hash of last publishes.
-- ARGV: root, ref, ms to keep the mark; 0 for none, token of this call.
-- Returns the owner if there was one, also to a repeated call.
-- Costs: one monitor.
--- @include "recorded_answers"
--- @include "monitors"
local monitors, counter, flushed, publishes = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local root, ref, keep_ms, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
even_when_full(monitors)
local answered = recorded_answer(publishes, token)
if answered then return answered end
local m = parsed(redis.call('HGET', monitors, ref))
if m then
  local work = begin(root)
  unlink(work, {ref, m})
  count(work, 'manual', 1)
  finish(work)
  record_answer(publishes, token, m.owner)
  return m.owner
end
if tonumber(keep_ms) > 0 and tonumber(ref) <= tonumber(redis.call('GET', counter) or 0) then
  redis.call('SET', flushed, '1', 'PX', keep_ms)
end
return nil
