-- Looks for a delivery among some of a mailbox' messages; with an outcome, removes it while no worker holds it, and records that
-- it was cancelled in the same step. A claimed message is marked instead, and is not tried again (see cancel_mark.lua).
-- KEYS: ledger, outcome, delayed, bodies, cancelling; to cancel, the hash of last publishes; the stream to look through, without which it looks
-- through what is not yet due.
-- ARGV: group, delivery id, outcome as JSON or '' to look only, ms to keep it, where to begin, how many to look at, token of this call or '' to
-- look only.
-- Returns {'ended'}, {'removed'}, {'scheduled', message, deaths}, {'waiting', message, deaths},
-- {'held', message, consumer, its delivery counter, deaths}, {'on', where to continue} or {'none'}. A repeated call that has
-- removed the message, or marked it, returns that again; of a marked one the consumer alone.
-- Costs: reads at most 1 MB and MOST_AT_ONCE messages, and decodes those that contain the id.
--- @include "mailbox_entry"
--- @include "endings"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "lineage"
--- @include "recorded_answers"
local ledger, outcome_key, delayed, bodies, cancelling = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, delivery, outcome, ttl_ms, begin_at, count, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
local cancels = outcome ~= ''
local publishes, stream = cancels and KEYS[6], KEYS[cancels and 7 or 6]
local REMOVED = 'removed'
local answered = cancels and recorded_answer(publishes, token)
if answered == REMOVED then return {REMOVED} end
if answered then return {'held', '', answered, 0, ''} end
if redis.call('EXISTS', outcome_key) == 1 then return {'ended'} end
local function is_it(m)
  if not m or not m:find(delivery, 1, true) then return false end
  local message = message_of(m)
  return message and type(message.headers) == 'table' and message.headers.id == delivery
end
local function cancelled(m, d)
  add_count(ledger, 'cancelled', 1)
  end_for_celery(ledger, m, 'REVOKED', '', 'cancelled')
  record(outcome_key, with_history(cjson.decode(outcome), message_of(m).headers.orc, d), ttl_ms, 'cancelled')
  record_answer(publishes, token, REMOVED)
  return with_events({REMOVED})
end
local bytes = 0
if not stream then
  local first = tonumber(begin_at)
  local members = redis.call('ZRANGE', delayed, first, first + count - 1)
  for at, member in ipairs(members) do
    if bytes >= MOST_BYTES then return {'on', tostring(first + at - 1)} end
    local m, d = scheduled(bodies, member)
    bytes = bytes + #(m or '')
    if is_it(m) then
      if not cancels then return {'scheduled', m, d or ''} end
      unschedule(delayed, bodies, member)
      return cancelled(m, d)
    end
  end
  return #members == count and {'on', tostring(first + count)} or {'none'}
end
local begin, looked, some = begin_at, 0, 1
while true do
  some = math.min(some, count - looked)
  local before = bytes
  local entries = redis.call('XRANGE', stream, begin, '+', 'COUNT', some)
  for _, entry in ipairs(entries) do
    local m, d, _, r = fields(entry)
    bytes = bytes + #(m or '')
    if is_it(m) then
      local pending = redis.pcall('XPENDING', stream, group, entry[1], entry[1], 1)
      if not pending.err and pending[1] then
        local orc = message_of(m).headers.orc
        -- The mark goes when the outcome is recorded, so there is none where none will be.
        if cancels and type(orc) == 'table' and orc.track then
          redis.call('HSET', hooks_of(outcome_key), 'cancel', outcome, 'cancelling', cancelling)
          redis.call('SADD', cancelling, outcome_key)
          -- What ends without an outcome leaves its mark; others are not to be looked through for it for ever.
          redis.call('PEXPIRE', cancelling, 604800000)
          record_answer(publishes, token, pending[1][2])
        end
        return {'held', with_lineage(m, r), pending[1][2], pending[1][4], d or ''}
      end
      if not cancels then return {'waiting', with_lineage(m, r), d or ''} end
      redis.call('XDEL', stream, entry[1])
      return cancelled(m, d)
    end
  end
  if #entries < some then return {'none'} end
  begin, looked = '(' .. entries[some][1], looked + some
  if looked >= count or bytes >= MOST_BYTES then return {'on', begin} end
  some = next_count(some, bytes - before)
end
