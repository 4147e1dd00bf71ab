--- @include "mailbox_entry"
--- @include "script_events"
--- @include "ballots"
-- The rule of ballots: core/coordination/ballot.py over Redis, with the same names. A ballot is the hash `ballot:ID`:
--   fingerprint          of what was proposed to whom by which rule
--   message, proposal, rule, proposed_ms, ends_ms   what Python reads
--   numerator, denominator, strict, least, silent_as   the threshold; what silence counts
--   weight, approved, rejected, silent   of all voters; counted so far
--   why_bytes            bytes of the reasons that are kept
--   nonce, text:N        texts of the messages that bring the decision, with marks to be filled in
--   accepted, how, by, decided_ms   once it is decided; cancel, the token of the call that has cancelled it
-- beside it:
--   ballot-voters:ID     hash: voter -> its weight; number of its text, queue, level and delivery of its decision, each on its own line,
--                        if it has an on_decision
--   ballot-copies:ID     hash: voter -> the delivery of its copy of the proposal
--   ballot-votes:ID      hash: voter -> JSON: [whether it approves, why], or why there is no vote
--   ballot-decision:ID   list of one element: the decision as JSON
--   ballot-undelivered:ID     list of the voters that the decision was not sent to yet
-- and in `timers` `ballot:ID`, until it is decided and all voters have the decision. All of it expires a week after the decision.
ballots.KEEP_MS = 604800000
local MOST_WHY_BYTES, MOST_DECISIONS = 16384, 200
local OPEN_AT = {votes = 'not needed', timeout = 'timeout', cancelled = 'cancelled'}
-- Decisions that this script has sent, and their bytes: one script may decide several ballots.
local decisions, decision_bytes = 0, 0

ballots.open = function(key)
  local root, id = key:match('^(.-orc:)ballot:(.*)$')
  local b = {key = key, root = root, id = id, timer = 'ballot:' .. id, timers = root .. 'timers'}
  for _, part in ipairs({'voters', 'copies', 'votes', 'decision', 'undelivered'}) do b[part] = root .. 'ballot-' .. part .. ':' .. id end
  return b
end

ballots.expire = function(b, ms)
  for _, key in ipairs({b.key, b.voters, b.copies, b.votes, b.decision, b.undelivered}) do redis.call('PEXPIRE', key, ms) end
end

-- Sends the decision to voters, as far as one script may; returns how many are left; a sweep sends them theirs.
-- Their mailboxes' admission is not asked for: a decision must pass a full mailbox, as a compensation does.
ballots.deliver = function(b)
  local nonce = redis.call('HGET', b.key, 'nonce')
  local decision, texts = nil, {}
  while decisions < MOST_DECISIONS and decision_bytes < MOST_BYTES do
    local voter = redis.call('LPOP', b.undelivered)
    if not voter then break end
    local number, queue, level, delivery = redis.call('HGET', b.voters, voter):match('^%d+\n(%d+)\n(.*)\n(.*)\n(.*)$')
    decision = decision or within_text(redis.call('LINDEX', b.decision, 0))
    texts[number] = texts[number] or redis.call('HGET', b.key, 'text:' .. number)
    local names = {agent = voter, queue = queue, id = delivery, decision = decision}
    local message = texts[number]:gsub('@' .. nonce .. ':(%a+)@', names)
    put(b.root .. 'q:' .. level .. ':' .. queue, message)
    count_accepted(b.root .. 'ledger:' .. queue, 1)
    decisions, decision_bytes = decisions + 1, decision_bytes + #message
  end
  local left = redis.call('LLEN', b.undelivered)
  if left > 0 then
    redis.call('ZADD', b.timers, now_ms(), b.timer)
  else
    redis.call('ZREM', b.timers, b.timer)
  end
  return left
end

-- Decides an open ballot, whose `counts` are approved, rejected, silent and weight; returns to how many voters it is not sent yet.
local function decide(b, counts, accepted, how, by)
  local now, message = now_ms(), redis.call('HGET', b.key, 'message')
  redis.call('HSET', b.key, 'accepted', accepted and 1 or 0, 'how', how, 'by', by, 'decided_ms', now)
  local counted, votes, missing, undelivered = {}, {}, {}, {}
  local flat = redis.call('HGETALL', b.votes)
  for at = 1, #flat, 2 do counted[flat[at]] = flat[at + 1] end
  flat = redis.call('HGETALL', b.voters)
  for at = 1, #flat, 2 do
    local voter, vote = flat[at], counted[flat[at]] or '"' .. OPEN_AT[how] .. '"'
    local list = vote:sub(1, 1) == '[' and votes or missing
    list[#list + 1] = cjson.encode(voter) .. ':' .. vote
    if flat[at + 1]:find('\n', 1, true) then undelivered[#undelivered + 1] = voter end
  end
  counts.accepted, counts.how, counts.by, counts.decided_ms = accepted, how, by, now
  local head = cjson.encode(counts):sub(1, -2)
  local lists = ',"votes":{' .. table.concat(votes, ',') .. '},"missing":{' .. table.concat(missing, ',') .. '}}'
  redis.call('RPUSH', b.decision, head .. lists)
  if #undelivered > 0 then redis.call('RPUSH', b.undelivered, unpack(undelivered)) end
  ballots.expire(b, ballots.KEEP_MS)
  emit_event('ballot_decided', b.id, message, accepted and 'accepted' or 'rejected', how, tostring(counts.approved), tostring(counts.rejected),
    tostring(counts.silent), tostring(counts.weight))
  return ballots.deliver(b)
end

local function counts_of(f)
  return {weight = tonumber(f[1]), approved = tonumber(f[2]), rejected = tonumber(f[3]), silent = tonumber(f[4])}
end

-- Whether approvals of that weight are enough, if `open` of what is left votes against it. `f` as in count().
local function is_met(f, counts, approved, open)
  local against = counts.rejected + (f[5] == 'reject' and counts.silent or 0)
  local has, needed = approved * tonumber(f[7]), tonumber(f[6]) * (approved + against + open)
  return approved >= tonumber(f[9]) and (f[8] == '1' and has > needed or f[8] ~= '1' and has >= needed)
end

local function read(b)
  return redis.call('HMGET', b.key, 'weight', 'approved', 'rejected', 'silent', 'silent_as', 'numerator', 'denominator', 'strict', 'least',
    'how', 'why_bytes', 'message')
end

-- Counts a vote, `approve` or `reject`, or `silent`, and why; returns whether that, or another one, has decided. A late vote, a second
-- one and that of nobody who was asked change nothing.
ballots.count = function(b, voter, vote, why)
  local f = read(b)
  if not f[1] or f[10] then return true end
  local known = redis.call('HGET', b.voters, voter)
  if not known then return false end
  local weight, counts = tonumber(known:match('^%d+')), counts_of(f)
  local text
  if vote == 'silent' then
    text = cjson.encode(why)
  else
    if f[11] + #why > MOST_WHY_BYTES then why = '' end
    text = cjson.encode({vote == 'approve', why})
  end
  if redis.call('HSETNX', b.votes, voter, text) == 0 then return false end
  local field = vote == 'silent' and 'silent' or vote == 'approve' and 'approved' or 'rejected'
  counts[field] = redis.call('HINCRBY', b.key, field, weight)
  if vote ~= 'silent' then redis.call('HINCRBY', b.key, 'why_bytes', #why) end
  emit_event('voted', b.id, f[12], voter, vote, why)
  local open = counts.weight - counts.approved - counts.rejected - counts.silent
  -- It is decided once neither the worst nor the best of what is left can change it.
  if is_met(f, counts, counts.approved, open) then
    decide(b, counts, true, 'votes', '')
  elseif not is_met(f, counts, counts.approved + open, 0) then
    decide(b, counts, false, 'votes', '')
  else
    return false
  end
  return true
end

-- Ends an open ballot: at its time, where who has not voted is silent, or by hand. Returns to how many voters it is not sent yet.
ballots.finish = function(b, how, by)
  local f = read(b)
  local counts = counts_of(f)
  if how == 'timeout' then
    counts.silent = counts.weight - counts.approved - counts.rejected
    redis.call('HSET', b.key, 'silent', counts.silent)
  end
  return decide(b, counts, how == 'timeout' and is_met(f, counts, counts.approved, 0), how, by)
end

-- The outcome of a voter's copy is recorded; the hook is the voter and the ballot's key, each on its own line.
ballots.copy_ended = function(hook, ended, outcome)
  local voter, key = hook:match('^(.-)\n(.*)$')
  local recorded = read_json(outcome) or {}
  local result = ended == 'handled' and recorded.result
  if type(result) == 'table' and type(result.approves) == 'boolean' then
    ballots.count(ballots.open(key), voter, result.approves and 'approve' or 'reject', type(result.why) == 'string' and result.why or '')
  elseif ended == 'handled' then
    ballots.count(ballots.open(key), voter, 'silent', 'no vote')
  elseif ended == 'dead' and recorded.reason == 'deadline passed' then
    ballots.count(ballots.open(key), voter, 'silent', OPEN_AT.timeout)
  elseif ended == 'dead' and tostring(recorded.error):find('InvalidResult:', 1, true) == 1 then
    ballots.count(ballots.open(key), voter, 'silent', 'dead: returned no Vote')
  else
    ballots.count(ballots.open(key), voter, 'silent', ended == 'dead' and 'dead: ' .. tostring(recorded.reason) or ended)
  end
end
