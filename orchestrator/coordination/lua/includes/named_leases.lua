--- @include "mailbox_entry"
--- @include "script_events"
--- @include "owners"
-- The rule of named leases, elections, semaphores and pools: core/lease.py over Redis, with the same names.
-- Of each name `KIND:NAME`:
--   named:          hash: f, the last fencing token; p, the permits; r, the resources of a pool as JSON; s, the last place in the line;
--                   o, the leader of an election; c, where the look for what is over goes on
--   named-holders:  hash: token -> holder as JSON: o, owner; e, entry; f, fence; s, since ms; k, tokens; r, resource; u, until ms;
--                   t, ms until it must be taken
--   named-line:     sorted set: token -> place in the line
--   named-waiting:  hash: token -> ticket as JSON: o, owner; e, entry; w, ms until which it waits; l, limit in ms
--   named-free:     list of a pool's free resources
--   named-terms:    stream of an election's terms: NUMBER-0 begins one, NUMBER-1 ends it
-- `named-of:OWNER` is a set of "TOKEN KIND:NAME", and `named` a sorted set of the names by their last use. What is left of a name
-- expires a week after its last use: the floor of its fencing tokens is Redis' clock.
local TAKE_MS, WEEK_MS, TERMS = 5000, 604800000, 100
-- Permits that one script looks at, and tickets that it takes out of the line.
local MOST = 100

local function open_name(root, kind, name)
  local tail = kind .. ':' .. name
  return {root = root, kind = kind, name = name, tail = tail, single = kind == 'lease' or kind == 'election', budget = MOST,
    state = root .. 'named:' .. tail, holders = root .. 'named-holders:' .. tail, line = root .. 'named-line:' .. tail,
    waiting = root .. 'named-waiting:' .. tail, free = root .. 'named-free:' .. tail, terms = root .. 'named-terms:' .. tail}
end

local function has_free(work)
  return redis.call('HLEN', work.holders) < work.permits
end

local function holder_of(work, token)
  local known = redis.call('HGET', work.holders, token)
  if known then return cjson.decode(known), token end
  if not work.single then return nil end
  local all = redis.call('HGETALL', work.holders)
  for i = 2, #all, 2 do
    local holder = cjson.decode(all[i])
    for _, other in ipairs(holder.k) do
      if other == token then return holder, all[i - 1] end
    end
  end
  return nil
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
  redis.call('HSET', work.holders, token, cjson.encode(holder))
  record_owner(work, owner, token)
  if work.kind == 'election' then
    redis.call('HSET', work.state, 'f', fence, 'o', owner)
    redis.pcall('XADD', work.terms, 'MAXLEN', 2 * TERMS, fence .. '-0', 'leader', owner, 'at', now)
    redis.call('PEXPIRE', work.terms, WEEK_MS)
  else
    redis.call('HSET', work.state, 'f', fence)
  end
  emit_event('lease_granted', work.kind, work.name, owner, fence)
  return holder
end

-- Takes a ticket out of the line; returns it.
local function leave_line(work, token)
  local ticket = redis.call('HGET', work.waiting, token)
  if not ticket then return nil end
  redis.call('ZREM', work.line, token)
  redis.call('HDEL', work.waiting, token)
  ticket = cjson.decode(ticket)
  forget_owner(work, ticket.o, token)
  return ticket
end

-- Grants free permits to the first in the line whose owners still wait, and wakes them.
local function grant_next(work)
  while work.budget > 0 and redis.call('EXISTS', work.line) == 1 and has_free(work) do
    work.budget = work.budget - 1
    local token = redis.call('ZRANGE', work.line, 0, 0)[1]
    local ticket = leave_line(work, token)
    if not ticket then
      redis.call('ZREM', work.line, token)
    elseif work.now <= ticket.w and runs(work, ticket.o, ticket.e) then
      grant(work, token, ticket.o, ticket.e, ticket.l, work.now + TAKE_MS)
      redis.call('RPUSH', work.root .. 'wake:' .. token, '1')
      redis.call('PEXPIRE', work.root .. 'wake:' .. token, TAKE_MS)
    end
  end
end

local function end_holder(work, holder, token, reason)
  redis.call('HDEL', work.holders, token)
  for _, one in ipairs(holder.k) do forget_owner(work, holder.o, one) end
  if work.kind == 'pool' then redis.call('RPUSH', work.free, holder.r) end
  if work.kind == 'election' then
    redis.call('HDEL', work.state, 'o')
    redis.pcall('XADD', work.terms, 'MAXLEN', 2 * TERMS, string.format('%.0f-1', holder.f), 'leader', holder.o, 'at', work.now,
      'reason', reason)
    redis.call('PEXPIRE', work.terms, WEEK_MS)
  end
  emit_event('lease_ended', work.kind, work.name, holder.o, string.format('%.0f', holder.f), reason)
end

-- Why a permit is held no more, although nobody has released it; nil if it is held.
local function is_over(work, holder)
  if holder.t > 0 and work.now > holder.t then return 'not taken' end
  if holder.u > 0 and work.now >= holder.u then return 'limit' end
  local alive = life(work, holder.o)
  -- A leader's messages are requeued before its term ends: the death hook comes after that.
  if alive == 'gone' or alive == 'dying' and work.kind ~= 'election' then return reason_of(work, holder.o) end
  if alive == 'alive' and holder.e ~= '' and not has_entry(holder.o, holder.e) then return 'attempt ended' end
  return nil
end

local function end_those_over(work)
  local from = work.single and '0' or redis.call('HGET', work.state, 'c') or '0'
  local found = redis.call('HSCAN', work.holders, from, 'COUNT', MOST)
  local all = found[2]
  for i = 1, math.min(#all, 20 * MOST), 2 do
    local holder = cjson.decode(all[i + 1])
    local reason = is_over(work, holder)
    if reason then end_holder(work, holder, all[i], reason) end
  end
  if not work.single then redis.call('HSET', work.state, 'c', found[1]) end
end

-- Reads what the name is in use with; a pool's number of permits is that of its resources.
local function read_state(work)
  local fence, permits, resources = unpack(redis.call('HMGET', work.state, 'f', 'p', 'r'))
  work.fence, work.permits, work.resources = tonumber(fence or 0), tonumber(permits or 0), resources or '[]'
end

-- Whether a request counts the permits as all others do; the first of them says how many there are.
local function agree(work, permits, resources)
  if work.permits == permits and work.resources == resources then return true end
  if work.permits > 0 and (redis.call('EXISTS', work.holders) == 1 or redis.call('EXISTS', work.line) == 1) then return false end
  work.permits, work.resources = permits, resources
  redis.call('HSET', work.state, 'p', permits, 'r', resources)
  redis.call('DEL', work.free)
  if work.kind == 'pool' then redis.call('RPUSH', work.free, unpack(cjson.decode(resources))) end
  return true
end

-- Records that the name was used. What is in use does not expire.
local function keep(work)
  redis.call('ZADD', work.root .. 'named', work.now, work.tail)
  if redis.call('EXISTS', work.holders, work.line) == 0 then
    redis.call('PEXPIRE', work.state, WEEK_MS)
    redis.call('PEXPIRE', work.free, WEEK_MS)
  else
    redis.call('PERSIST', work.state)
    redis.call('PERSIST', work.free)
  end
end

-- Opens a name for a change.
local function work_on(root, kind, name)
  local work = open_name(root, kind, name)
  work.now = now_ms()
  read_state(work)
  return work
end

-- Gives a permit back, or leaves the line; returns whether it was held.
local function release(work, token, reason)
  leave_line(work, token)
  local holder, key = holder_of(work, token)
  if holder then
    if #holder.k > 1 then
      local left = {}
      for _, one in ipairs(holder.k) do
        if one ~= token then left[#left + 1] = one end
      end
      holder.k = left
      redis.call('HSET', work.holders, key, cjson.encode(holder))
      forget_owner(work, holder.o, token)
      return true
    end
    end_holder(work, holder, key, reason)
  end
  grant_next(work)
  return holder ~= nil
end
