-- Grants a permit of a named lease, an election, a semaphore or a pool, or gives the request its place in the line. A repeated
-- request, with the same token, gets the same grant.
-- KEYS: leases. ARGV: root, kind, name, token, owner, entry of the attempt that asks or '', ms that it waits, its limit in ms or 0,
-- '1' if it may enter again, permits, resources as JSON.
-- Returns {'granted', fence, since in ms, resource}, {'waiting', tickets before it}, {'taken', fence, since in ms, holder},
-- {'held'}: by the same owner, {'gone'}: the owner has no lease, or {'differs', permits or resources in use}.
-- Costs: at most 100 holders that are over, and 100 tickets; about 15 commands otherwise.
--- @include "named_leases"
local leases = KEYS[1]
local root, kind, name, token, owner, entry = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local wait_ms, limit_ms, reentrant = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9] == '1'
local permits, resources = tonumber(ARGV[10]), ARGV[11]
local GRACE_MS = 2000
even_when_full(leases)
if not redis.call('ZSCORE', leases, owner) then return {'gone'} end
local work = work_on(root, kind, name)
if not agree(work, permits, resources) then
  return {'differs', kind == 'pool' and work.resources or tostring(work.permits)}
end

local function granted(holder, key)
  if holder.t > 0 then
    holder.t = 0
    redis.call('HSET', work.holders, key, cjson.encode(holder))
    redis.call('DEL', root .. 'wake:' .. token)
  end
  keep(work)
  return with_events({'granted', holder.f, holder.s, holder.r})
end

local holder, key
if work.single or not has_free(work) then end_those_over(work) end
if redis.call('EXISTS', work.holders) == 1 then
  holder, key = holder_of(work, token)
  if holder then return granted(holder, key) end
  if work.single then
    local all = redis.call('HGETALL', work.holders)
    local held = all[2] and cjson.decode(all[2])
    if held and held.o == owner and held.e == entry then
      if not reentrant then
        leave_line(work, token)
        return with_events({'held'})
      end
      leave_line(work, token)
      held.k[#held.k + 1], held.t = token, 0
      redis.call('HSET', work.holders, all[1], cjson.encode(held))
      record_owner(work, owner, token)
      return granted(held, all[1])
    end
  end
end
local has_line = redis.call('EXISTS', work.line) == 1
if has_line then
  grant_next(work)
  holder, key = holder_of(work, token)
  if holder then return granted(holder, key) end
  has_line = redis.call('EXISTS', work.line) == 1
end
if not has_line and has_free(work) then
  return granted(grant(work, token, owner, entry, limit_ms, 0), token)
end
if wait_ms <= 0 then
  leave_line(work, token)
  local oldest = {f = 0, s = 0, o = ''}
  local some = redis.call('HSCAN', work.holders, '0', 'COUNT', MOST)[2]
  for i = 2, math.min(#some, 2 * MOST), 2 do
    local one = cjson.decode(some[i])
    if oldest.f == 0 or one.f < oldest.f then oldest = one end
  end
  return with_events({'taken', oldest.f, oldest.s, oldest.o})
end
if not redis.call('ZSCORE', work.line, token) then
  redis.call('ZADD', work.line, redis.call('HINCRBY', work.state, 's', 1), token)
  record_owner(work, owner, token)
end
redis.call('HSET', work.waiting, token, cjson.encode({o = owner, e = entry, w = work.now + wait_ms + GRACE_MS, l = limit_ms}))
keep(work)
return with_events({'waiting', redis.call('ZRANK', work.line, token)})
