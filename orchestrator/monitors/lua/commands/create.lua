-- Makes monitors of one owner. A monitor whose target has no living incarnation gets its DOWN at once.
-- KEYS: monitors, counter, owners, targets, origins, incarnation counter, the owner's set, supervisions, replies.
-- ARGV: root, template, level, default supervision, owner, its agent or '', incarnation counter by which agents' names were
-- looked up or '', origin, the origin's text or '', id of this call, then of each: target, tag, number of incarnations, them.
-- Returns {first ref, numbers of those that got their DOWN at once…}, {-1}: the owner is gone, {-2}: look names up again,
-- {-3}: how this agent's messages are supervised is not known. A repeated call gets the same reply.
-- Costs: at most 200 monitors, which callers see to.
--- @include "monitors"
local monitors, counter, owner_names, target_names, origins, incarnation_counter, owned, supervisions, replies = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local root, template, level, default_supervision, owner, agent = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local looked_up, origin, origin_text, call = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local FIRST_MONITOR = 11
local last = redis.call('HGET', replies, owner)
if last then
  local known = read_json(last)
  if known and known[1] == call then return known[2] end
end
if not redis.call('ZSCORE', root .. 'leases', owner) then return {-1} end
if looked_up ~= '' and (redis.call('GET', incarnation_counter) or '0') ~= looked_up then return {-2} end
if agent ~= '' and redis.call('HEXISTS', supervisions, agent) == 0 then return {-3} end
if origin_text ~= '' and redis.call('HLEN', origins) < 10000 then redis.call('HSETNX', origins, origin, origin_text) end
local work = begin(root, template, level, default_supervision)
local now = now_ms()
local wanted = {}
local at = FIRST_MONITOR
while at <= #ARGV do
  local left, last = {}, at + 2 + tonumber(ARGV[at + 2])
  for i = at + 3, last do
    if lives(work, ARGV[i]) then left[#left + 1] = ARGV[i] end
  end
  wanted[#wanted + 1] = {owner = owner, agent = agent, at = now, tag = ARGV[at + 1], origin = origin,
    target = ARGV[at], left = left}
  at = last + 1
end
local number = number_of(owner)
local first = redis.call('INCRBY', counter, #wanted) - #wanted + 1
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
    redis.call('HSET', monitors, ref, packed(m))
    refs[#refs + 1] = ref
    for _, incarnation in ipairs(m.left) do
      redis.call('ZADD', root .. 'monitors-on:' .. incarnation, number, ref)
      if not seen[incarnation] then
        seen[incarnation] = true
        redis.call('SADD', target_names, incarnation)
        -- A sweeper that does not run death hooks must not forget it before the DOWNs are recorded.
        redis.call('HSET', root .. 'incarnation:' .. incarnation, 'on_death', 1)
      end
    end
  end
end
if #refs > 0 then
  redis.call('SADD', owned, unpack(refs))
  redis.call('SADD', owner_names, owner)
end
count(work, 'created', #wanted)
finish(work)
redis.call('HSET', replies, owner, cjson.encode({call, out}))
return out
