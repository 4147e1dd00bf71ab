-- Ends a ballot, if it is open, or goes on with sending its decision to the voters.
-- KEYS: ballot, timers. ARGV: the ballot's id; `time` if it has come, or `cancel`; of a cancel why, and the call's token.
-- Returns {1 if this call has decided it, 0 if not, -1 if there is no such ballot; number of voters to whom the decision is not sent yet}. A repeated
-- cancel returns 1 again.
-- Costs: reads 1,000 voters once; sends 200 decisions and 1 MB of them.
--- @include "clock"
--- @include "script_events"
--- @include "ballots"
local ballot_key, timers = KEYS[1], KEYS[2]
local id, action, why, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local known = redis.call('HMGET', ballot_key, 'fingerprint', 'how', 'ends_ms', 'cancel')
if not known[1] then
  redis.call('ZREM', timers, 'ballot:' .. id)
  return {-1, 0}
end
even_when_full(timers)
local ballot = ballots.open(ballot_key)
if known[2] then return with_events({action == 'cancel' and known[4] == token and 1 or 0, ballots.deliver(ballot)}) end
if action == 'cancel' then
  redis.call('HSET', ballot_key, 'cancel', token)
  return with_events({1, ballots.finish(ballot, 'cancelled', why)})
end
if now_ms() < tonumber(known[3]) then return {0, 0} end
return with_events({1, ballots.finish(ballot, 'timeout', '')})
