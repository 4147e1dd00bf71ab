--- @include "clock"
-- The bulkhead of a mailbox: its requests in flight, a sorted set: ask -> its timeout, in ms since 1970. So no request is counted
-- after its timeout, whichever process dies. The rule is core/admission/bulkhead.py.
-- Requests that wait for a place are in a line, a sorted set: ask -> time of arrival, in µs since 1970. Each has a ticket in another
-- sorted set: ask -> time by which it looks again, in ms since 1970. A request whose ticket has expired is removed from the line, because its
-- caller may be dead; if it does look later, it is put back at its old position. Free places are reserved for the first of the line,
-- each of which is woken by an element of the list `wake:ASK`. If one does not take its place, the reservation expires.

-- How long a place is reserved for a request that was woken, in ms.
local TAKE_MS = 1000

-- Longest sleep of a request in the line, in ms: its wake-up may be lost.
local SLEEP_MS = 1000

-- How long after its sleep a ticket expires, in ms.
local LATE_MS = 500

-- The most places that are reserved, and tickets that are removed, in one call.
local MOST_AT_A_TIME = 500

local function line_of(bulkhead)
  return (bulkhead:gsub('orc:bulkhead:', 'orc:bulkhead-line:', 1))
end

local function tickets_of(bulkhead)
  return (bulkhead:gsub('orc:bulkhead:', 'orc:bulkhead-tickets:', 1))
end

-- Puts a request that has waited for `waited_ms` into the line, or keeps its position there.
local function queue_up(bulkhead, ask, waited_ms, left_ms)
  local line, tickets = line_of(bulkhead), tickets_of(bulkhead)
  -- In µs: several may arrive in one ms.
  local time = redis.call('TIME')
  local arrived_us = time[1] * 1000000 + time[2] - waited_ms * 1000
  redis.call('ZADD', line, 'NX', string.format('%.0f', arrived_us), ask)
  redis.call('ZADD', tickets, now_ms() + SLEEP_MS + LATE_MS, ask)
  for _, key in ipairs({line, tickets}) do
    redis.call('PEXPIRE', key, math.max(redis.call('PTTL', key), left_ms + 60000))
  end
end

-- Reserves free places for the first of the line. `looking` is the request that looks now, which need not be woken.
local function give_places(bulkhead, places, looking)
  local line = line_of(bulkhead)
  if places <= 0 or redis.call('EXISTS', line) == 0 then return end
  local tickets = tickets_of(bulkhead)
  local late = redis.call('ZRANGEBYSCORE', tickets, '-inf', now_ms(), 'LIMIT', 0, MOST_AT_A_TIME)
  if late[1] then
    redis.call('ZREM', tickets, unpack(late))
    redis.call('ZREM', line, unpack(late))
  end
  local root = bulkhead:match('^(.-orc:)bulkhead:')
  local first = redis.call('ZPOPMIN', line, math.min(places, MOST_AT_A_TIME))
  for at = 1, #first, 2 do
    local ask = first[at]
    redis.call('ZREM', tickets, ask)
    redis.call('ZADD', bulkhead, now_ms() + TAKE_MS, ask)
    if ask ~= looking then
      local wake = root .. 'wake:' .. ask
      redis.call('RPUSH', wake, '1')
      redis.call('PEXPIRE', wake, 5 * TAKE_MS)
    end
  end
  if first[1] then redis.call('PEXPIRE', bulkhead, math.max(redis.call('PTTL', bulkhead), TAKE_MS)) end
end

-- Returns the number of requests in flight if the bulkhead is full, else nil. Free places go to the line first. A place reserved for this
-- request does not count. The request may wait for `wait_ms`, of which `left_ms` are left.
local function full_bulkhead(bulkhead, most, ask, wait_ms, left_ms)
  redis.call('ZREMRANGEBYSCORE', bulkhead, '-inf', now_ms())
  local count = redis.call('ZCARD', bulkhead)
  if count < most and redis.call('EXISTS', line_of(bulkhead)) == 1 then
    if left_ms > 0 then queue_up(bulkhead, ask, wait_ms - left_ms, left_ms) end
    give_places(bulkhead, most - count, ask)
    count = redis.call('ZCARD', bulkhead)
  end
  if count >= most and redis.call('ZSCORE', bulkhead, ask) then count = count - 1 end
  if count >= most then return count end
  return nil
end

local function leave_bulkhead(bulkhead, ask)
  if redis.call('ZREM', bulkhead, ask) == 1 then give_places(bulkhead, 1) end
end

-- Removes a request that is not in flight from the line, and gives a place that is reserved for it to the next.
local function leave_line(bulkhead, ask)
  redis.call('ZREM', line_of(bulkhead), ask)
  redis.call('ZREM', tickets_of(bulkhead), ask)
  leave_bulkhead(bulkhead, ask)
end

-- Puts a request into the line, or keeps its position there, for `left_ms` of `wait_ms`; removes it if none are left. Returns how many ms
-- it may sleep: at most until the first timeout of the requests in flight.
local function wait_for_bulkhead(bulkhead, ask, wait_ms, left_ms)
  if left_ms <= 0 then
    leave_line(bulkhead, ask)
    return 0
  end
  queue_up(bulkhead, ask, wait_ms - left_ms, left_ms)
  local first = redis.call('ZRANGE', bulkhead, 0, 0, 'WITHSCORES')[2]
  return math.max(1, math.min(SLEEP_MS, left_ms, tonumber(first or 0) - now_ms() + 1))
end

local function enter_bulkhead(bulkhead, ask, timeout_ms)
  redis.call('ZREM', line_of(bulkhead), ask)
  redis.call('ZREM', tickets_of(bulkhead), ask)
  redis.call('ZADD', bulkhead, now_ms() + timeout_ms, ask)
  redis.call('PEXPIRE', bulkhead, math.max(redis.call('PTTL', bulkhead), timeout_ms + 60000))
end
