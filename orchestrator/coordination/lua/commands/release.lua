-- Gives a permit back, or takes a request out of the line, and grants what is free to the next.
-- KEYS: leases, hash of last publishes. ARGV: root, kind, name, token, reason, token of this call.
-- Returns "FENCE OWNER" of the permit that has ended, '+' if it was entered again and is still held, or '' if it was not held, or not
-- any more: its limit had passed. A repeated call returns its first answer.
-- Costs: at most 100 tickets; 5 commands for a lease for which nobody waits.
--- @include "clock"
--- @include "recorded_answers"
local publishes = KEYS[2]
local root, kind, name, token, reason, call = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if kind == 'lease' then
  -- Usually no request waits. This does the same as the rest of the script, without defining its functions.
  local state = root .. 'named:lease:' .. name
  local known = redis.call('HMGET', state, 'k', 'q', 'o', 'f', 't', 'u')
  if known[1] == token and not known[2] and known[5] == '0' and (known[6] == '0' or now_ms() < tonumber(known[6])) then
    redis.call('HDEL', state, 'k', 'o')
    redis.call('SREM', root .. 'named-of:' .. known[3], token .. ' lease:' .. name)
    redis.call('PEXPIRE', state, 604800000)
    --- @event 'lease_ended', kind, name, known[3], known[4], reason
    local answer = known[4] .. ' ' .. known[3]
    record_answer(publishes, call, answer)
    return answer
  end
end
--- @include "named_leases"
local work = work_on(root, kind, name)
local holder, has_ended = release(work, token, reason)
expire_unused(work)
if not holder then return with_events(recorded_answer(publishes, call) or '') end
local answer = has_ended and string.format('%.0f ', holder.f) .. holder.o or '+'
record_answer(publishes, call, answer)
return with_events(answer)
