-- Takes or extends a scheduler's turn, and reads what is due.
-- KEYS: the schedulers' turn.
-- ARGV: root, scheduler, who it is (for people), ms a turn lasts, how many schedules to read at most, how many of the first to leave out, ms for which nobody must have scheduled before
-- the caller takes the turn (0: it takes a free one; -1: it takes none), a new mark for a data set that has none, the stream and the
-- ledger of the monitor manager's mailbox and a housekeeping message for it, or '' three times; then the ids of the bound
-- schedules that the caller declares.
-- Returns {1 if the turn is the caller's, now, ms until there is something to do or -1, mark of the data set, number of schedules, ms until
-- another's turn ends or 0, ms since somebody scheduled or -1, number of those that are due at any time, {id, when due, why its state cannot be read or '', definition or '', field, value of its state, …}, …}. One
-- that is due after all times there are is broken, and read as if it were due. Bound ones are
-- read whoever's turn it is. A scheduler that waits for others to fail gives its turn back to one that does not.
-- With the turn, it has the monitor manager do its housekeeping.
-- The turn only saves work: `fire` accepts each due time once, whoever asks.
-- Costs: 100 schedules (two calls of `fire`) or 256 KB of definitions, and a command for each bound schedule.
--- @include "mailbox_entry"
local turn = KEYS[1]
local root, scheduler, who, turn_ms, most, after = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local stale_ms, mark = tonumber(ARGV[7]), ARGV[8]
local manager, manager_ledger, housekeeping = ARGV[9], ARGV[10], ARGV[11]
local FIRST_BOUND, HEAD, MOST_BYTES_READ, WANTED_MS, MOST_VALUES, LAST_MS, DAY_MS = 12, 8, 262144, 3000, 200, 300000000000000, 86400000
even_when_full(turn)
local now = now_ms()
local f = redis.call('HMGET', turn, 'of', 'until_ms', 'mark', 'at_ms', 'wanted_ms')
if not f[3] then
  redis.call('HSET', turn, 'mark', mark)
  f[3] = mark
end
local ends, since = tonumber(f[2] or 0), f[4] and now - tonumber(f[4]) or -1
local is_mine = f[1] == scheduler
-- A turn that lasts longer than any turn does is one from before the clock jumped.
local is_taken = f[1] and not is_mine and ends > now and ends <= now + turn_ms
if is_taken and stale_ms == 0 then redis.call('HSET', turn, 'wanted_ms', now) end
if is_mine and stale_ms ~= 0 and f[5] and math.abs(now - tonumber(f[5])) < WANTED_MS then
  redis.call('HDEL', turn, 'of', 'until_ms')
  is_mine = false
elseif not is_taken and not is_mine and stale_ms >= 0 then
  is_mine = since < 0 or since >= stale_ms
end
if is_mine then redis.call('HSET', turn, 'of', scheduler, 'by', who, 'until_ms', now + turn_ms, 'at_ms', now) end
local out = {is_mine and 1 or 0, now, -1, f[3], redis.call('HLEN', root .. 'schedules'), is_taken and ends - now or 0, since,
  redis.call('ZCARD', root .. 'schedules:due') + redis.call('ZCARD', root .. 'schedules:bound')}
local bytes = 0
local function read(id, due, bound)
  local definition = redis.call('HGET', root .. 'schedules', id) or ''
  local f, why = redis.pcall('HGETALL', root .. 'schedule:' .. id), ''
  if f.err then
    f, why = {}, f.err
  elseif #f > MOST_VALUES then
    f, why = {}, 'it has ' .. #f / 2 .. ' fields'
  end
  local says = false
  for at = 1, #f, 2 do
    if f[at] == 'b' then says = f[at + 1] == '1' end
  end
  -- `fire` would look for it in the other set, and find it stale again and again.
  if why == '' and says ~= bound then why = 'its field b is not that of the set in which it is due' end
  out[#out + 1] = {id, due, why, definition, unpack(f)}
  bytes = bytes + #definition
end
-- One message waits at most: a second one would add nothing. What a worker has does not wait.
local function start_housekeeping()
  local held = redis.pcall('XPENDING', manager, 'workers')
  if redis.call('XLEN', manager) > (held.err and 0 or held[1]) then return end
  put(manager, housekeeping)
  add_count(manager_ledger, 'accepted', 1)
  redis.call('SADD', root .. 'queues', 'monitor-manager')
end

local function wait_until(due)
  local ms = math.max(0, math.min(DAY_MS, math.ceil(tonumber(due) - now)))
  if out[3] < 0 or ms < out[3] then out[3] = ms end
end
-- A mailbox of another type must not stop the schedules.
if is_mine and housekeeping ~= '' then pcall(start_housekeeping) end
for at = FIRST_BOUND, #ARGV do
  local due = redis.call('ZSCORE', root .. 'schedules:bound', ARGV[at])
  if due then
    if (tonumber(due) <= now or tonumber(due) > LAST_MS) and #out < HEAD + most and bytes < MOST_BYTES_READ then read(ARGV[at], due, true) else wait_until(due) end
  end
end
if is_mine then
  local found = redis.call('ZRANGE', root .. 'schedules:due', after, after + most, 'WITHSCORES')
  for at = 1, #found, 2 do
    if tonumber(found[at + 1]) > now or #out >= HEAD + most or bytes >= MOST_BYTES_READ then
      wait_until(found[at + 1])
      break
    end
    read(found[at], found[at + 1], false)
  end
  if after == 0 and #out < HEAD + most then
    local broken = redis.call('ZRANGEBYSCORE', root .. 'schedules:due', '(' .. string.format('%.0f', LAST_MS), '+inf', 'WITHSCORES', 'LIMIT', 0, 10)
    for at = 1, #broken, 2 do
      if #out < HEAD + most then read(broken[at], broken[at + 1], false) end
    end
  end
end
return out
