-- Puts the messages that have a singleton called with its terms before all that waits in its mailbox, and records that the term of its
-- leader is announced: only from then on the leader claims there (see claim.lua), so no message comes between.
-- KEYS: leases, the term that was announced last. ARGV: root, election, number of the term, ms for which that is remembered, queue, level,
-- messages…
-- Returns 1, also if it was done before; 0 if that term goes on no more.
-- Costs: each message; of an agent with lanes, those that one end of a permit lets go.
--- @include "mailbox_entry"
--- @include "end_permits"
local leases, announced = KEYS[1], KEYS[2]
local root, election, number, ttl_ms, queue, level = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local FIRST_MESSAGE = 7
even_when_full(leases)
local state = root .. 'named:election:' .. election
local leader, fence, done = unpack(redis.call('HMGET', state, 'o', 'f', 'a'))
if not leader or fence ~= number then return 0 end
if done == number then return 1 end
local lanes, stream = lanes_of(root, queue), root .. 'q:' .. level .. ':' .. queue
local count = #ARGV - FIRST_MESSAGE + 1
if count > 0 then count_accepted(root .. 'ledger:' .. queue, count) end
if count > 0 and lanes.limit < math.huge then
  -- What waits in a lane goes before what is in the mailbox.
  for at = #ARGV, FIRST_MESSAGE, -1 do
    local waiting = {'m', ARGV[at], 'l', level, 'k', '', 'n', '1'}
    redis.call('LPUSH', lane_of(lanes, ''), redis.call('XADD', lanes.stream, '*', unpack(waiting)))
  end
  redis.call('ZADD', root .. 'timers', 'NX', now_ms() + CHECK_MS, 'lanes:' .. queue)
  use_permits(lanes, '')
else
  for at = FIRST_MESSAGE, #ARGV do put(stream, ARGV[at], nil, nil, nil, nil, '1') end
end
redis.call('HSET', state, 'a', number)
redis.call('SET', announced, number, 'PX', ttl_ms)
return 1
