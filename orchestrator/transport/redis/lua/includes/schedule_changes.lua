--- @include "mailbox_entry"
--- @include "script_events"
--- @include "schedules"
-- The state of a schedule is the hash orc:schedule:ID. Its fields:
--   r           revision; each change of the definition, pause and resume raises it
--   n, l        the next nominal time in ms, missing once there is none; the last one that was decided
--   o           owner: 's:APP' of a static schedule, 'i:INCARNATION', or missing
--   b           '1' if only a scheduler whose code declares it may fire it
--   p, t        why it is paused, and since when in ms; missing if it is not
--   e           why it has ended; missing if it has not
--   g           why its mailbox refuses the message that is due; missing if it does not
--   u           delivery of the fire that runs, where overlap or a pause on failure is asked for
--   q           nominal time of the fire that waits for the end of that one
--   f, c, m, k  fired, coalesced, missed, skipped
-- and those that only the rule in Python reads (see core/schedules/rule.py). How often it was due is the sum of the last four; the
-- totals of all schedules are in orc:schedules:ledger.
-- Most entries of the history where the caller does not know the setting.
schedules.HISTORY = 50000

-- The root of all keys, and the schedule's id, as the key of its state has them.
schedules.of = function(state)
  local at = state:find('orc:schedule:', 1, true)
  return state:sub(1, at + 3), state:sub(at + 13)
end

schedules.due_set = function(root, bound)
  return root .. 'schedules:' .. (bound == '1' and 'bound' or 'due')
end

-- Whether a field is missing, or a whole number as stored_state.py accepts it. No command fails that adds to such a number.
schedules.is_number = function(value)
  return not value or value == '0' or #value <= 16 and value:find('^%-?[1-9]%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?$') ~= nil
end

-- Wakes the schedulers.
schedules.ring = function(root)
  redis.call('PUBLISH', root .. 'schedules:bell', '1')
end

local TOTALS = {d = 'due', f = 'fired', c = 'coalesced', m = 'missed', k = 'skipped'}

-- Counts what became of `by` due times, for the schedule now, and for all of them in `totals`.
schedules.count = function(totals, state, field, by, reason)
  if by == 0 then return end
  local name = TOTALS[field]
  -- A count that is no number must not stop what is done already; its schedule is set aside when it is due.
  if field ~= 'd' then redis.pcall('HINCRBY', state, field, by) end
  totals[name] = (totals[name] or 0) + by
  if reason and reason ~= '' then totals[name .. ': ' .. reason] = (totals[name .. ': ' .. reason] or 0) + by end
end

-- Writes to a key that all schedules share; returns why that failed. One of another type is set aside under another name, and
-- what is written begins anew.
schedules.write_shared = function(key, command, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) ~= 'table' or not reply.err then return nil end
  local why = reply.err
  if not why:find('WRONGTYPE', 1, true) then return why end
  local aside = key .. ':broken:' .. now_ms()
  local renamed = redis.pcall('RENAME', key, aside)
  emit_event('schedules_key_broken', key, why .. '; ' .. (renamed.err or 'set aside as ' .. aside))
  redis.pcall(command, key, ...)
end

schedules.add_totals = function(root, totals)
  local ledger = root .. 'schedules:ledger'
  for name, by in pairs(totals) do
    local why = schedules.write_shared(ledger, 'HINCRBY', name, by)
    if why and (why:find('not an integer', 1, true) or why:find('overflow', 1, true)) then
      local aside = 'broken: ' .. name
      redis.call('HSET', ledger, aside, redis.call('HGET', ledger, name), name, by)
      emit_event('schedules_key_broken', ledger, 'total ' .. name .. ': ' .. why .. '; set aside as field ' .. aside)
    end
  end
end

-- Records what became of one or more due times: s schedule, a what ('fired', 'coalesced', 'missed', 'skipped', 'buffered'), n nominal time of the
-- last, i of the first, c how many, w why, d delivery, z nominal time that they were coalesced into. Left out is what says nothing.
-- What it records is done: a history of another type is set aside.
schedules.record = function(root, most, id, what, last, first, number, reason, delivery, into)
  local entry = {'s', id, 'a', what, 'n', last}
  if delivery ~= '' then entry[7], entry[8] = 'd', delivery end
  if first ~= last then entry[#entry + 1], entry[#entry + 2] = 'i', first end
  if number ~= '1' then entry[#entry + 1], entry[#entry + 2] = 'c', number end
  if reason ~= '' then entry[#entry + 1], entry[#entry + 2] = 'w', reason end
  if into and into ~= '' then entry[#entry + 1], entry[#entry + 2] = 'z', into end
  schedules.write_shared(root .. 'schedules:fires', 'XADD', 'MAXLEN', '~', most, '*', unpack(entry))
end

-- A decision about a schedule, as scripts.py writes it into ARGV: number of fields of the state that change, {field, value or ''}; number of
-- counts, {field, by, reason}; number of records, {what, last nominal time, first one, number, reason, delivery, nominal time that they were
-- coalesced into}.
local COUNT, RECORD = 3, 7

-- The place after a decision that begins at ARGV[at].
schedules.after_decision = function(at)
  at = at + 2 * ARGV[at] + 1
  at = at + COUNT * ARGV[at] + 1
  return at + RECORD * ARGV[at] + 1
end

-- Carries out a decision. `fired` is the schedule's count of fires if the caller has read it: most decisions need one command less then.
schedules.write = function(root, most, totals, state, id, at, fired)
  local set, deleted = {}, {}
  local last = at + 2 * ARGV[at]
  for i = at + 1, last, 2 do
    if ARGV[i + 1] == '' then deleted[#deleted + 1] = ARGV[i] else set[#set + 1], set[#set + 2] = ARGV[i], ARGV[i + 1] end
  end
  if #deleted > 0 then redis.call('HDEL', state, unpack(deleted)) end
  at = last + 1
  last = at + COUNT * ARGV[at]
  for i = at + 1, last, COUNT do
    if fired and ARGV[i] == 'f' and ARGV[i + 2] == '' then
      set[#set + 1], set[#set + 2] = 'f', fired + ARGV[i + 1]
      totals.fired = (totals.fired or 0) + ARGV[i + 1]
    else
      schedules.count(totals, state, ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2])
    end
  end
  if #set > 0 then redis.call('HSET', state, unpack(set)) end
  at = last + 1
  for i = at + 1, at + RECORD * ARGV[at], RECORD do
    schedules.record(root, most, id, unpack(ARGV, i, i + RECORD - 1))
  end
end

-- The outcome of a fire decides about the schedule: `pauses` is '1' if a failure pauses it.
schedules.await = function(root, state, delivery, pauses)
  redis.call('HSET', root .. 'hooks:' .. delivery, 'schedule', state, 'pauses', pauses)
end

-- The fire that waits for the end of the one before is skipped.
schedules.drop_buffered = function(root, state, id, totals, most, reason)
  local nominal = redis.pcall('HGET', state, 'q')
  if type(nominal) ~= 'string' then return end
  redis.call('HDEL', state, 'q')
  schedules.count(totals, state, 'd', 1)
  schedules.count(totals, state, 'k', 1, reason)
  schedules.record(root, most, id, 'skipped', nominal, nominal, '1', reason, '')
end

schedules.pause = function(root, state, id, why)
  redis.call('HSET', state, 'p', why, 't', now_ms())
  redis.call('HINCRBY', state, 'r', 1)
  redis.call('ZREM', root .. 'schedules:due', id)
  redis.call('ZREM', root .. 'schedules:bound', id)
end

-- The outcome of a schedule's fire was recorded. Its schedule may have been removed meanwhile. A fire that waits is due now.
schedules.fire_ended = function(state, delivery, ended, pauses)
  -- A schedule that is broken must not fail the settlement of its delivery.
  local f = redis.pcall('HMGET', state, 'r', 'u', 'q', 'b', 'p')
  if f.err or not f[1] or not schedules.is_number(f[1]) then return end
  local root, id = schedules.of(state)
  if f[2] == delivery then redis.call('HDEL', state, 'u') end
  if pauses == '1' and ended ~= 'handled' then
    if f[5] then return end
    local totals, reason = {}, 'delivery ' .. delivery .. ' was not handled'
    schedules.pause(root, state, id, reason)
    schedules.drop_buffered(root, state, id, totals, schedules.HISTORY, 'paused')
    schedules.add_totals(root, totals)
    emit_event('schedule_paused', id, reason)
  elseif f[2] == delivery and f[3] and not f[5] then
    redis.call('ZADD', schedules.due_set(root, f[4]), now_ms(), id)
    schedules.ring(root)
  end
end

-- The owner of a schedule: an app whose code declares it, or an incarnation.
schedules.own = function(root, owner, id)
  redis.call('SADD', root .. 'schedules-of:' .. owner, id)
  redis.call('SADD', root .. 'schedules:owners', owner)
end

schedules.disown = function(root, owner, id)
  local of = root .. 'schedules-of:' .. owner
  redis.call('SREM', of, id)
  if redis.call('EXISTS', of) == 0 then redis.call('SREM', root .. 'schedules:owners', owner) end
end

-- Removes all of a schedule but its counts in the totals.
schedules.remove = function(root, id, totals, most)
  local state = root .. 'schedule:' .. id
  local owner = redis.pcall('HGET', state, 'o')
  schedules.drop_buffered(root, state, id, totals, most, 'removed')
  redis.call('HDEL', root .. 'schedules', id)
  redis.pcall('HDEL', root .. 'schedules:broken', id)
  redis.call('ZREM', root .. 'schedules:due', id)
  redis.call('ZREM', root .. 'schedules:bound', id)
  if type(owner) == 'string' then schedules.disown(root, owner, id) end
  redis.call('DEL', state)
end
