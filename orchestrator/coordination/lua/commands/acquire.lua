-- Grants a permit of a named lease, an election, a semaphore or a pool, or gives the request its place in the line. A repeated
-- request, with the same token, gets the same grant.
-- KEYS: leases. ARGV: root, kind, name, token, owner, entry of the attempt that asks or '', ms that it waits, its limit in ms or 0,
-- '1' if it may enter again, permits, resources as JSON, score of a candidate.
-- Returns {'granted', fence, since in ms, resource, 1 if only now}, {'waiting', tickets before it}, {'taken', fence, since in ms,
-- holder}, {'held'}: by the same owner, {'gone'}: the owner has no lease, or {'differs', permits or resources in use}.
-- Costs: at most 100 holders that are over, and 100 tickets; 6 commands for a lease that is free.
--- @include "clock"
local leases = KEYS[1]
local root, kind, name, token, owner, entry = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local wait_ms, limit_ms, reentrant = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9] == '1'
local permits, resources, score = tonumber(ARGV[10]), ARGV[11], tonumber(ARGV[12])
local GRACE_MS = 2000
if not redis.call('ZSCORE', leases, owner) then return {'gone'} end
if kind == 'lease' then
  -- Most leases are free. This does the same as the rest of the script, without defining its functions.
  local state = root .. 'named:lease:' .. name
  local known = redis.call('HMGET', state, 'k', 'q', 'f', 'z')
  local now = now_ms()
  if not known[1] and not known[2] and known[4] and math.abs(now - tonumber(known[4])) < 60000 then
    local fence = math.max(tonumber(known[3] or 0) + 1, now)
    redis.call('PERSIST', state)
    redis.call('HSET', state, 'f', string.format('%.0f', fence), 'k', token, 'o', owner, 'e', entry, 's', string.format('%.0f', now),
      'u', string.format('%.0f', limit_ms > 0 and now + limit_ms or 0), 't', '0')
    redis.call('SADD', root .. 'named-of:' .. owner, token .. ' lease:' .. name)
    --- @event 'lease_granted', kind, name, owner, fence
    return {'granted', fence, now, '', 1}
  end
end
--- @include "named_leases"
local work = open_for_use(root, kind, name)
if not agree(work, permits, resources) then
  return with_events({'differs', kind == 'pool' and work.resources or tostring(work.permits)})
end

-- It was granted before, perhaps by another's script.
local function granted(holder)
  if holder.t > 0 then
    holder.t = 0
    put_holder(work, holder)
    redis.call('DEL', root .. 'wake:' .. token)
  end
  return with_events({'granted', holder.f, holder.s, holder.r, 0})
end

if work.single or not has_free(work) then end_those_over(work) end
local holder = holder_of(work, token)
if holder then return granted(holder) end
local held = work.held
if held and held.o == owner and held.e == entry then
  leave_line(work, token)
  if not reentrant then return with_events({'held'}) end
  if held.t > 0 then
    -- The request that was granted it still sleeps. It asks again within a second, and gets the same grant.
    held.t = 0
    redis.call('DEL', root .. 'wake:' .. held.k[1])
  end
  held.k[#held.k + 1] = token
  record_owner(work, owner, token)
  put_holder(work, held)
  return granted(held)
end
if work.has_line then
  grant_next(work)
  holder = holder_of(work, token)
  if holder then return granted(holder) end
end
if not has_line(work) and has_free(work) then
  local new = grant(work, token, owner, entry, limit_ms, 0)
  --- @event 'lease_granted', kind, name, owner, new.f
  return with_events({'granted', new.f, new.s, new.r, 1})
end
if wait_ms <= 0 then
  leave_line(work, token)
  local oldest = work.held or {f = 0, s = 0, o = ''}
  if not work.single then
    local some = redis.call('HSCAN', work.holders, '0', 'COUNT', MOST)[2]
    for i = 2, math.min(#some, 2 * MOST), 2 do
      local one = cjson.decode(some[i])
      if oldest.f == 0 or one.f < oldest.f then oldest = one end
    end
  end
  return with_events({'taken', oldest.f, oldest.s, oldest.o})
end
local known = redis.call('HGET', work.waiting, token)
local ticket = known and cjson.decode(known)
if not ticket then
  ticket = {o = owner, e = entry, l = limit_ms, n = redis.call('HINCRBY', work.state, 'n', 1)}
  redis.call('HSET', work.state, 'q', '1')
  redis.call('ZADD', work.line, -score, line_member(ticket.n, token))
  record_owner(work, owner, token)
end
ticket.w = work.now + wait_ms + GRACE_MS
redis.call('HSET', work.waiting, token, cjson.encode(ticket))
return with_events({'waiting', redis.call('ZRANK', work.line, line_member(ticket.n, token))})
