--- @include "clock"
--- @include "script_events"
--- @include "owners"
-- The rule of named leases, elections, semaphores and pools: core/coordination/lease.py over Redis, with the same names.
-- Of each name `KIND:NAME`:
--   named:          hash: f, the last fencing token; n, the last place in the line; q, there if the line may have somebody;
--                   z, when its use was last recorded, ms. Of a semaphore or pool: p, the permits; r, resources as JSON; c, where the
--                   look for what is over goes on. Of a lease or an election: k, the holder's tokens, there while it is held, and the
--                   rest of the holder: o (there while it is held), e, s, u, t; its fence is f. Of an election: h, "TOKEN FENCE" of the term that
--                   was handed over last; of a singleton's: a, the fence of the term that was announced last
--   named-holders:  hash of a semaphore or pool: token -> holder as JSON. A holder: o, owner; e, entry; f, fence; s, since ms;
--                   k, tokens; r, resource; u, until ms; t, ms until what woke it must be read
--   named-line:     sorted set: "PLACE TOKEN" by the negative score of a candidate, 0 of others
--   named-waiting:  hash: token -> ticket as JSON: o, owner; e, entry; w, ms until which it waits; l, limit in ms; n, place
--   named-free:     list of a pool's free resources
--   named-terms:    stream of an election's terms: NUMBER-0 begins one, NUMBER-1 ends it
-- `wake:TOKEN` is a list with what a request that sleeps was granted: "FENCE SINCE RESOURCE". As long as it lies there, the permit is
-- not taken.
-- `named-of:OWNER` is a set of "TOKEN KIND:NAME", and `named` a sorted set of the names by their last use, to a minute. What is left
-- of a name expires a week after its last use: the floor of its fencing tokens is Redis' clock.
-- The first write of each script here is one that takes no memory, so that the rest may write on a full server, too (as
-- even_when_full does).
local TAKE_MS, WEEK_MS, TERMS, USED_MS = 5000, 604800000, 100, 60000
-- Permits that one script looks at, and tickets that it takes out of the line.
local MOST = 100

local function open_name(root, kind, name)
  local tail = kind .. ':' .. name
  return {root = root, kind = kind, name = name, tail = tail, single = kind == 'lease' or kind == 'election', budget = MOST,
    state = root .. 'named:' .. tail, holders = root .. 'named-holders:' .. tail, line = root .. 'named-line:' .. tail,
    waiting = root .. 'named-waiting:' .. tail, free = root .. 'named-free:' .. tail, terms = root .. 'named-terms:' .. tail}
end

local function has_free(work)
  if work.single then return not work.held end
  return redis.call('HLEN', work.holders) < work.permits
end

local function has_line(work)
  return work.has_line and redis.call('EXISTS', work.line) == 1
end

local function holder_of(work, token)
  if not work.single then
    local known = redis.call('HGET', work.holders, token)
    return known and cjson.decode(known) or nil
  end
  for _, other in ipairs(work.held and work.held.k or {}) do
    if other == token then return work.held end
  end
  return nil
end

-- Writes a holder that has changed.
local function put_holder(work, holder)
  if work.single then
    work.held = holder
    redis.call('HSET', work.state, 'k', table.concat(holder.k, ' '), 'o', holder.o, 'e', holder.e, 's', holder.s, 'u', holder.u,
      't', holder.t)
  else
    redis.call('HSET', work.holders, holder.k[1], cjson.encode(holder))
  end
end

local function record_owner(work, owner, token)
  redis.call('SADD', work.root .. 'named-of:' .. owner, token .. ' ' .. work.tail)
end

local function forget_owner(work, owner, token)
  redis.call('SREM', work.root .. 'named-of:' .. owner, token .. ' ' .. work.tail)
end

local function grant(work, token, owner, entry, limit_ms, take_by_ms)
  local now = work.now
  work.fence = math.max(work.fence + 1, now)
  local fence = string.format('%.0f', work.fence)
  local resource = work.kind == 'pool' and redis.call('LPOP', work.free) or ''
  local holder = {o = owner, e = entry, f = work.fence, s = now, k = {token}, r = resource,
    u = limit_ms > 0 and now + limit_ms or 0, t = take_by_ms}
  record_owner(work, owner, token)
  redis.call('HSET', work.state, 'f', fence)
  put_holder(work, holder)
  if work.kind == 'election' then
    redis.pcall('XADD', work.terms, 'MAXLEN', 2 * TERMS, fence .. '-0', 'leader', owner, 'at', now)
    redis.call('PEXPIRE', work.terms, WEEK_MS)
  end
  return holder
end

-- All tokens of a holder, of which one that enters often has many.
local function forget_holder(work, holder)
  local tokens = holder.k
  for from = 1, #tokens, MOST do
    local members = {}
    for at = from, math.min(from + MOST - 1, #tokens) do members[#members + 1] = tokens[at] .. ' ' .. work.tail end
    redis.call('SREM', work.root .. 'named-of:' .. holder.o, unpack(members))
  end
end

local function line_member(place, token)
  return string.format('%015.0f ', place) .. token
end

-- Takes a ticket out of the line; returns it.
local function leave_line(work, token)
  local ticket = redis.call('HGET', work.waiting, token)
  if not ticket then return nil end
  ticket = cjson.decode(ticket)
  redis.call('ZREM', work.line, line_member(ticket.n, token))
  redis.call('HDEL', work.waiting, token)
  forget_owner(work, ticket.o, token)
  return ticket
end

local function still_waits(work, ticket)
  return work.now <= ticket.w and runs(work, ticket.o, ticket.e)
end

-- Grants a permit to a request that has left the line, and wakes it.
local function grant_and_wake(work, token, ticket)
  local holder = grant(work, token, ticket.o, ticket.e, ticket.l, work.now + TAKE_MS)
  local fence, wake = string.format('%.0f', holder.f), work.root .. 'wake:' .. token
  redis.call('RPUSH', wake, string.format('%s %.0f %s', fence, holder.s, holder.r))
  redis.call('PEXPIRE', wake, WEEK_MS)
  emit_event('lease_granted', work.kind, work.name, ticket.o, fence)
end

-- Grants free permits to the first in the line whose owners still wait.
local function grant_next(work)
  while work.budget > 0 and work.has_line and has_free(work) do
    local member = redis.call('ZRANGE', work.line, 0, 0)[1]
    if not member then
      work.has_line = false
      redis.call('HDEL', work.state, 'q')
      return
    end
    work.budget = work.budget - 1
    local token = member:sub(17)
    local ticket = leave_line(work, token)
    if not ticket then
      redis.call('ZREM', work.line, member)
    elseif still_waits(work, ticket) then
      grant_and_wake(work, token, ticket)
    end
  end
end

-- Ends a permit without an event of it.
local function remove_holder(work, holder, reason)
  if work.single then
    redis.call('HDEL', work.state, 'k', 'o')
    work.held = nil
  else
    redis.call('HDEL', work.holders, holder.k[1])
  end
  if work.kind == 'election' then
    redis.pcall('XADD', work.terms, 'MAXLEN', 2 * TERMS, string.format('%.0f-1', holder.f), 'leader', holder.o, 'at', work.now,
      'reason', reason)
    redis.call('PEXPIRE', work.terms, WEEK_MS)
  end
  forget_holder(work, holder)
  if holder.t > 0 then redis.call('DEL', work.root .. 'wake:' .. holder.k[1]) end
  if work.kind == 'pool' then redis.call('RPUSH', work.free, holder.r) end
end

local function end_holder(work, holder, reason)
  remove_holder(work, holder, reason)
  emit_event('lease_ended', work.kind, work.name, holder.o, string.format('%.0f', holder.f), reason)
end

local function is_past_limit(work, holder)
  return holder.u > 0 and work.now >= holder.u
end

-- Why a permit is held no more, although nobody has released it; nil if it is held.
local function is_over(work, holder)
  if holder.t > 0 and work.now > holder.t and redis.call('EXISTS', work.root .. 'wake:' .. holder.k[1]) == 1 then return 'not taken' end
  if is_past_limit(work, holder) then return 'limit' end
  local alive = life(work, holder.o)
  -- A leader's messages are requeued before its term ends: the death hook comes after that.
  if alive == 'gone' or alive == 'dying' and work.kind ~= 'election' then return reason_of(work, holder.o) end
  if alive == 'alive' and holder.e ~= '' and not has_entry(holder.o, holder.e) then return 'attempt ended' end
  return nil
end

local function end_those_over(work)
  if work.single then
    local reason = work.held and is_over(work, work.held)
    if reason then end_holder(work, work.held, reason) end
    return
  end
  local from = redis.call('HGET', work.state, 'c') or '0'
  local found = redis.call('HSCAN', work.holders, from, 'COUNT', MOST)
  local all = found[2]
  for i = 1, math.min(#all, 20 * MOST), 2 do
    local holder = cjson.decode(all[i + 1])
    local reason = is_over(work, holder)
    if reason then end_holder(work, holder, reason) end
  end
  redis.call('HSET', work.state, 'c', found[1])
end

-- Reads what the name is in use with; a pool's number of permits is that of its resources.
local function read_state(work)
  if work.single then
    local fence, used, line, tokens, owner, entry, since, limit, take_by =
      unpack(redis.call('HMGET', work.state, 'f', 'z', 'q', 'k', 'o', 'e', 's', 'u', 't'))
    work.fence, work.used, work.has_line, work.permits, work.resources = tonumber(fence or 0), tonumber(used or 0), line, 1, '[]'
    if tokens then
      work.held = {o = owner, e = entry, f = work.fence, s = tonumber(since), k = {}, r = '', u = tonumber(limit),
        t = tonumber(take_by)}
      for token in tokens:gmatch('%S+') do work.held.k[#work.held.k + 1] = token end
    end
  else
    local fence, used, line, permits, resources = unpack(redis.call('HMGET', work.state, 'f', 'z', 'q', 'p', 'r'))
    work.fence, work.used, work.has_line = tonumber(fence or 0), tonumber(used or 0), line
    work.permits, work.resources = tonumber(permits or 0), resources or '[]'
  end
end

-- Whether anything is held, or anybody waits.
local function is_in_use(work)
  if work.single and work.held then return true end
  return not work.single and redis.call('EXISTS', work.holders) == 1 or has_line(work)
end

-- Whether a request counts the permits as all others do; the first of them says how many there are.
local function agree(work, permits, resources)
  if work.permits == permits and work.resources == resources then return true end
  if work.permits > 0 and is_in_use(work) then
    -- Permits and requests that are over do not keep the name from another number of permits.
    end_those_over(work)
    grant_next(work)
    if is_in_use(work) then return false end
  end
  work.permits, work.resources = permits, resources
  redis.call('HSET', work.state, 'p', permits, 'r', resources)
  redis.call('DEL', work.free)
  if work.kind == 'pool' then redis.call('RPUSH', work.free, unpack(cjson.decode(resources))) end
  return true
end

-- Opens a name for a change.
local function work_on(root, kind, name)
  local work = open_name(root, kind, name)
  work.now = now_ms()
  read_state(work)
  return work
end

-- Opens a name for a request. What is in use does not expire.
local function open_for_use(root, kind, name)
  local work = work_on(root, kind, name)
  redis.call('PERSIST', work.state)
  if kind == 'pool' then redis.call('PERSIST', work.free) end
  if math.abs(work.now - work.used) >= USED_MS then
    redis.call('ZADD', root .. 'named', work.now, work.tail)
    redis.call('HSET', work.state, 'z', string.format('%.0f', work.now))
  end
  return work
end

-- Lets a name that is not in use any more expire.
local function expire_unused(work)
  if is_in_use(work) then return end
  redis.call('PEXPIRE', work.state, WEEK_MS)
  if work.kind == 'pool' then redis.call('PEXPIRE', work.free, WEEK_MS) end
end

-- Gives a permit back, or leaves the line, and grants what is free to the next. Returns the holder, and whether its permit has ended:
-- what was entered again is still held. After its limit it was not held any more.
local function release(work, token, reason)
  local holder = holder_of(work, token)
  if holder and is_past_limit(work, holder) then
    end_holder(work, holder, 'limit')
    holder = nil
  elseif not holder then
    leave_line(work, token)
  elseif #holder.k > 1 then
    local left = {}
    for _, one in ipairs(holder.k) do
      if one ~= token then left[#left + 1] = one end
    end
    holder.k = left
    forget_owner(work, holder.o, token)
    put_holder(work, holder)
    return holder, false
  else
    remove_holder(work, holder, reason)
    --- @event 'lease_ended', work.kind, work.name, holder.o, holder.f, reason
  end
  grant_next(work)
  return holder, true
end
