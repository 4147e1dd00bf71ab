-- Looks for a delivery among some of a mailbox' messages, and if asked to, removes it while nobody has it, as one step
-- with the record that it was cancelled. What somebody has is marked instead: it is not tried again (see cancelled.lua).
-- KEYS: ledger, outcome, delayed, bodies, the stream to look through or '', cancelling.
-- ARGV: group, delivery id, outcome as JSON or '' to look only, ms to keep it, where to begin, how many to look at
-- Returns {'ended'}, {'removed'}, {'scheduled', message, deaths}, {'waiting', message, deaths},
-- {'held', message, consumer, its delivery counter, deaths}, {'on', where to go on} or {'none'}.
--- @include "mailbox_entry"
--- @include "endings"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "lineage"
if redis.call('EXISTS', KEYS[2]) == 1 then return {'ended'} end
local function is_it(m)
  if not m or not m:find(ARGV[2], 1, true) then return false end
  local message = message_of(m)
  return message and type(message.headers) == 'table' and message.headers.id == ARGV[2]
end
local function cancelled(m, d)
  redis.call('HINCRBY', KEYS[1], 'cancelled', 1)
  end_for_celery(KEYS[1], m, 'REVOKED', '', 'cancelled')
  record(KEYS[2], with_past(cjson.decode(ARGV[3]), message_of(m).headers.orc, d), ARGV[4], 'cancelled')
  return answer({'removed'})
end
local count = tonumber(ARGV[6])
local bytes = 0
if KEYS[5] == '' then
  local first = tonumber(ARGV[5])
  local members = redis.call('ZRANGE', KEYS[3], first, first + count - 1)
  for at, member in ipairs(members) do
    if bytes >= MOST_BYTES then return {'on', tostring(first + at - 1)} end
    local m, d = scheduled(KEYS[4], member)
    bytes = bytes + #(m or '')
    if is_it(m) then
      if ARGV[3] == '' then return {'scheduled', m, d or ''} end
      unschedule(KEYS[3], KEYS[4], member)
      return cancelled(m, d)
    end
  end
  return #members == count and {'on', tostring(first + count)} or {'none'}
end
local begin, looked, some = ARGV[5], 0, 1
while true do
  some = math.min(some, count - looked)
  local before = bytes
  local entries = redis.call('XRANGE', KEYS[5], begin, '+', 'COUNT', some)
  for _, entry in ipairs(entries) do
    local m, d, _, r = fields(entry)
    bytes = bytes + #(m or '')
    if is_it(m) then
      local pending = redis.pcall('XPENDING', KEYS[5], ARGV[1], entry[1], entry[1], 1)
      if not pending.err and pending[1] then
        local orc = message_of(m).headers.orc
        -- The mark goes when the outcome is recorded, so there is none where none will be.
        if ARGV[3] ~= '' and type(orc) == 'table' and orc.track then
          redis.call('HSET', hooks_of(KEYS[2]), 'cancel', ARGV[3], 'cancelling', KEYS[6])
          redis.call('SADD', KEYS[6], KEYS[2])
          -- What ends without an outcome leaves its mark; others are not to be looked through for it for ever.
          redis.call('PEXPIRE', KEYS[6], 604800000)
        end
        return {'held', with_lineage(m, r), pending[1][2], pending[1][4], d or ''}
      end
      if ARGV[3] == '' then return {'waiting', with_lineage(m, r), d or ''} end
      redis.call('XDEL', KEYS[5], entry[1])
      return cancelled(m, d)
    end
  end
  if #entries < some then return {'none'} end
  begin, looked = '(' .. entries[some][1], looked + some
  if looked >= count or bytes >= MOST_BYTES then return {'on', begin} end
  some = many_more(some, bytes - before)
end
