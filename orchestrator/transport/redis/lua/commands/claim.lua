-- Moves due messages into their mailbox, then gives the caller up to `credit` messages, most urgent level first.
-- KEYS: leases, then for each queue: delayed, bodies, the stream of each level.
-- ARGV: group, incarnation, '1' if it must hold a lease, credit, how many more to claim ahead, names of the levels…
-- Returns {ms until the next message is due or -1, key index, id, message, death history, key index, …}; {-2} when fenced.
-- If a mailbox is a singleton's, or on hold, or its agent limits how many of its messages run at a time, so that a reader must not sleep at
-- it for long without a claim, the first element is a list that begins with those ms.
-- Of a singleton's mailbox (see coordination/candidates.py), whoever does not lead gets nothing, nor does a leader whose term is not announced: the index of the first key of each such
-- mailbox follows in that list. If nobody leads, and no living worker declares the singleton, it ends when a worker claims that hosts
-- the agent without declaring it.
-- Of a mailbox whose agent limits how many of its messages run at a time (lanes.lua), those that may not run enter their lanes. The index
-- follows in that list, negative.
-- If a mailbox is on hold for the caller's host (see hold_mailbox.lua), or the caller needs no lease and so serves no mailbox, it claims
-- nothing there, and the first number is 10 less than the negative of those ms. A hold of another host ends: the reply then comes with an event (as script_events.lua has it, which each
-- claim would have to pay for).
-- Death history: '' if none, else "<unattributed deaths> <deaths JSON>"; an 'n' in front says that the message was returned
-- without ever having been delivered. One text, because each part of a reply costs every claim.
-- A message claimed ahead has a delivery counter of 0: it is no suspect if its holder dies.
-- Costs: moves at most 100 messages a queue and 1 MB, and 50 into lanes, in whose bodies 16 KB and four times 9 KB are looked through;
-- reads at most 1 MB and MOST_AT_ONCE messages. For a singleton without a leader, three commands for each of at most 1,000 workers that
-- host it.
--- @include "mailbox_entry"
--- @include "lineage"
local leases = KEYS[1]
local group, incarnation, needs_lease = ARGV[1], ARGV[2], ARGV[3]
local ahead = tonumber(ARGV[5])
local credit = tonumber(ARGV[4]) + ahead
local FIRST_QUEUE, FIRST_LEVEL = 2, 6
if needs_lease == '1' and not redis.call('ZSCORE', leases, incarnation) then return {-2} end
local levels = #ARGV - FIRST_LEVEL + 1
local stride = levels + 2
local now = now_ms()
local wait = -1
local bytes = 0

even_when_full(leases)
for base = FIRST_QUEUE, #KEYS, stride do
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[base], '-inf', now, 'LIMIT', 0, 100)) do
    if bytes >= MOST_BYTES then break end
    local body, deaths, sent = scheduled(KEYS[base + 1], member)
    local target = levels
    for s = 1, levels do
      if member:sub(1, #ARGV[FIRST_LEVEL - 1 + s] + 1) == ARGV[FIRST_LEVEL - 1 + s] .. '|' then target = s end
    end
    -- If that mailbox is a key of another type, it stays scheduled.
    if body then put(KEYS[base + 1 + target], body, deaths, nil, nil, sent) end
    unschedule(KEYS[base], KEYS[base + 1], member)
    bytes = bytes + #(body or '')
  end
  local first = redis.call('ZRANGE', KEYS[base], 0, 0, 'WITHSCORES')
  if first[2] then
    local ms = math.max(0, tonumber(first[2]) - now)
    if wait < 0 or ms < wait then wait = ms end
  end
end

local on_hold, withheld, limited, released
local is_held = false
for base = FIRST_QUEUE, #KEYS, stride do
  local flow = KEYS[base]:gsub('orc:delayed:', 'orc:flow:', 1)
  local host, singleton, limit = unpack(redis.call('HMGET', flow, 'on_hold', 'singleton', 'concurrency'))
  if host or singleton or limit then withheld = withheld or {} end
  if limit then
    -- Raises as long as nothing is claimed, if one is a key of another type.
    local of = KEYS[base]:gsub('orc:delayed:', 'orc:permits:', 1)
    redis.call('HLEN', of)
    redis.call('HLEN', (of:gsub('orc:permits:', 'orc:permits-used:', 1)))
    redis.call('XLEN', (of:gsub('orc:permits:', 'orc:q:lanes:', 1)))
    limited = limited or {}
    limited[base] = flow
    withheld[#withheld + 1] = -base
  end
  if singleton then
    local leader, term, announced = unpack(redis.call('HMGET', leases:sub(1, -7) .. 'named:election:' .. singleton, 'o', 'f', 'a'))
    if leader == incarnation then
      if announced == term then singleton = nil end
    elseif not leader then

--- @include "singletons"

      if is_over(leases:sub(1, -7), flow, singleton, incarnation) then
        redis.call('HDEL', flow, 'singleton', 'singleton_ms')
        singleton = nil
      end
    end
  end
  if singleton then
    on_hold = on_hold or {}
    on_hold[base] = true
    withheld[#withheld + 1] = base
  elseif host then
    if needs_lease ~= '1' or incarnation:find('@' .. host .. ':', 1, true) then
      on_hold = on_hold or {}
      on_hold[base] = true
      is_held = true
    else
      redis.call('HDEL', flow, 'on_hold')
      released = released or {}
      released[#released + 1] = {'released', flow:match('orc:flow:(.*)$'), host}
    end
  end
end

if is_held then wait = -10 - wait end
local out = {withheld and {wait, unpack(withheld)} or wait}
local reply = released and {'events', out, released} or out
bytes = 0

-- Returns of entries that were claimed from a mailbox with a limit those that may run, and whether to go on claiming there. It is
-- made only if there is such a mailbox.
local pass
if limited then

--- @include "enter_lanes"

  local MOST_PARKED, MOST_LOOKED_THROUGH = 50, 16384
  local parked = 0
  pass = function(base, stream, entries)
    local root, queue = limited[base]:match('^(.-orc:)flow:(.*)$')
    local passed, lane_bytes = through_lanes(lanes_of(root, queue), stream, group, entries)
    parked, bytes = parked + #entries - #passed, bytes + lane_bytes
    local goes_on = parked < MOST_PARKED and looked_through < MOST_LOOKED_THROUGH and bytes < MOST_BYTES
    -- There may be more: the caller is to come again at once.
    if not goes_on then out[1][1] = is_held and -10 or 0 end
    return passed, goes_on
  end
end

for s = 1, levels do
  for base = FIRST_QUEUE, #KEYS, stride do
    local index = base + 1 + s
    local count, is_limited = 1, limited and limited[base]
    -- Most streams are empty: those of returned messages, and of other priorities.
    local may_have_one = not (on_hold and on_hold[base]) and redis.call('XLEN', KEYS[index]) > 0
    while may_have_one do
      if credit <= 0 or bytes >= MOST_BYTES then return reply end
      -- What is claimed ahead would have a permit that it does not use.
      if is_limited and credit <= ahead then break end
      count = math.min(count, is_limited and credit - ahead or credit)
      local read = {'XREADGROUP', 'GROUP', group, incarnation, 'COUNT', count, 'STREAMS', KEYS[index], '>'}
      local got = redis.pcall(unpack(read))
      if got and got.err then
        redis.call('XGROUP', 'CREATE', KEYS[index], group, '0', 'MKSTREAM')
        got = redis.call(unpack(read))
      end
      local entries, before = got and got[1][2] or {}, bytes
      local found, goes_on = #entries, true
      if is_limited then entries, goes_on = pass(base, KEYS[index], entries) end
      local later = {'XCLAIM', KEYS[index], group, incarnation, 0}
      for _, entry in ipairs(entries) do
        local m, d, u, r, _, n = fields(entry)
        if credit <= ahead then later[#later + 1] = entry[1] end
        out[#out + 1] = index
        out[#out + 1] = entry[1]
        out[#out + 1] = r and with_lineage(m or '', r) or m or ''
        out[#out + 1] = (n and 'n' or '') .. ((d or u) and (u or 0) .. ' ' .. (d or '') or '')
        credit = credit - 1
        bytes = bytes + #(m or '')
      end
      if #later > 5 then
        later[#later + 1], later[#later + 2], later[#later + 3] = 'RETRYCOUNT', 0, 'JUSTID'
        redis.call(unpack(later))
      end
      if found < count or not goes_on then break end
      count = next_count(count, bytes - before)
    end
  end
end
return reply
