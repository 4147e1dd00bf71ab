-- Makes monitors of one owner. Those whose target has no living incarnation are answered with a DOWN at once.
-- KEYS: monitors, counter, owners, targets, origins, incarnation counter, the owner's set, supervisions,
--   answers.
-- ARGV: root, template, step, default supervision, owner, its agent or '', incarnation counter by which agents' names
--   were looked up or '', origin, the origin's text or '', what this call is known by, then of each: target, tag, number of incarnations, them
-- Returns {first ref, numbers of those that were answered at once…}, {-1}: the owner is gone, {-2}: look names up
-- again, {-3}: how this agent's messages are supervised is not known.
-- A call that is made again, because the answer was lost with the connection, gets the same answer.
--- @include "monitors"
local root, owner, agent = ARGV[1], ARGV[5], ARGV[6]
local last = redis.call('HGET', KEYS[9], owner)
if last then
  local answered = read_json(last)
  if answered and answered[1] == ARGV[10] then return answered[2] end
end
if not redis.call('ZSCORE', root .. 'leases', owner) then return {-1} end
if ARGV[7] ~= '' and (redis.call('GET', KEYS[6]) or '0') ~= ARGV[7] then return {-2} end
if agent ~= '' and redis.call('HEXISTS', KEYS[8], agent) == 0 then return {-3} end
if ARGV[9] ~= '' and redis.call('HLEN', KEYS[5]) < 10000 then redis.call('HSETNX', KEYS[5], ARGV[8], ARGV[9]) end
local work = begin(root, ARGV[2], ARGV[3], ARGV[4])
local now = now_ms()
local wanted = {}
local at = 11
while at <= #ARGV do
  local left, last = {}, at + 2 + tonumber(ARGV[at + 2])
  for i = at + 3, last do
    if lives(work, ARGV[i]) then left[#left + 1] = ARGV[i] end
  end
  wanted[#wanted + 1] = {owner = owner, agent = agent, at = now, tag = ARGV[at + 1], origin = ARGV[8],
    target = ARGV[at], left = left}
  at = last + 1
end
local number = number_of(owner)
local first = redis.call('INCRBY', KEYS[2], #wanted) - #wanted + 1
local out = {first}
local seen = {}
local refs = {}
for i, m in ipairs(wanted) do
  local ref = string.format('%.0f', first + i - 1)
  if #m.left == 0 then
    down(work, ref, m, 'noproc')
    count(work, 'target_died', 1)
    out[#out + 1] = i - 1
  else
    redis.call('HSET', KEYS[1], ref, packed(m))
    refs[#refs + 1] = ref
    for _, incarnation in ipairs(m.left) do
      redis.call('ZADD', root .. 'monitors-on:' .. incarnation, number, ref)
      if not seen[incarnation] then
        seen[incarnation] = true
        redis.call('SADD', KEYS[4], incarnation)
        -- Whoever sweeps and knows nothing of monitors must not forget it before its owners are told.
        redis.call('HSET', root .. 'incarnation:' .. incarnation, 'on_death', 1)
      end
    end
  end
end
if #refs > 0 then
  redis.call('SADD', KEYS[7], unpack(refs))
  redis.call('SADD', KEYS[3], owner)
end
count(work, 'created', #wanted)
finish(work)
redis.call('HSET', KEYS[9], owner, cjson.encode({ARGV[10], out}))
return out
