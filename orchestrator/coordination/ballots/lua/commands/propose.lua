-- Puts a ballot's proposal into the mailboxes of some of its voters; the first call, which has fields, begins the ballot.
-- KEYS: ballot, ballots, timers.
-- ARGV: fingerprint, ms until it times out, number of the ballot's fields, their names and values…, number of voters, voter and what is
-- recorded of it (see ballot_votes.lua)…, then of each copy: voter, queue, level, delivery, message.
-- Returns {`open`, `decided`, `exists` if the id is that of another ballot, or `gone`; number of voters to whom the decision is not sent yet}. A
-- repeated call puts nothing twice.
-- Costs: at most 200 copies and 1 MB, which the caller sees to; the first call writes 1,000 voters besides. A copy that is refused may
-- decide the ballot.
--- @include "mailbox_entry"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "admission"
local ballot_key, all_ballots, timers = KEYS[1], KEYS[2], KEYS[3]
local fingerprint, timeout_ms, fields_count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local FIRST_FIELD, PER_COPY = 4, 5
-- How long ballots are listed: as long as they are kept after the longest timeout. How many are taken off the list at once.
local LISTED_MS, MOST_UNLISTED = 700000000, 100
-- How long a copy is asked for its vote after the timeout: a worker may have it.
local LATE_MS = 3600000
local now, ballot = now_ms(), ballots.open(ballot_key)
local voters_at = FIRST_FIELD + 2 * fields_count
local voters_count = tonumber(ARGV[voters_at])
local first_copy = voters_at + 1 + 2 * voters_count
local known = redis.call('HGET', ballot_key, 'fingerprint')
if not known and fields_count == 0 then return {'gone', 0} end
if known and known ~= fingerprint then return {'exists', 0} end
if not known then
  redis.call('HSET', ballot_key, 'fingerprint', fingerprint, 'proposed_ms', now, 'ends_ms', now + timeout_ms, 'approved', 0, 'rejected', 0,
    'silent', 0, 'why_bytes', 0, unpack(ARGV, FIRST_FIELD, voters_at - 1))
  redis.call('HSET', ballot.voters, unpack(ARGV, voters_at + 1, first_copy - 1))
  redis.call('ZADD', timers, now + timeout_ms, ballot.timer)
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', all_ballots, '-inf', now - LISTED_MS, 'LIMIT', 0, MOST_UNLISTED)) do
    redis.call('ZREM', all_ballots, old)
  end
  redis.call('ZADD', all_ballots, now, ballot.id)
end
local decided = redis.call('HEXISTS', ballot_key, 'how') == 1
for at = first_copy, #ARGV, PER_COPY do
  if decided then break end
  local voter, queue, level, delivery, message = unpack(ARGV, at, at + PER_COPY - 1)
  if redis.call('HSETNX', ballot.copies, voter, delivery) == 1 then
    local flow = ballot.root .. 'flow:' .. queue
    local admission = admit(flow, 1, true)
    if admission and admission.take == 0 then
      decided = ballots.count(ballot, voter, 'silent', admission.refusal[1])
    else
      put(ballot.root .. 'q:' .. level .. ':' .. queue, message)
      count_accepted(ballot.root .. 'ledger:' .. queue, 1)
      local hooks = ballot.root .. 'hooks:' .. delivery
      redis.call('HSET', hooks, 'ballot', voter .. '\n' .. ballot_key)
      redis.call('PEXPIRE', hooks, timeout_ms + LATE_MS)
      if admission then after_admission(admission) end
    end
  end
end
if not decided then ballots.expire(ballot, timeout_ms + ballots.KEEP_MS) end
return with_events({decided and 'decided' or 'open', decided and redis.call('LLEN', ballot.undelivered) or 0})
