-- Reads barriers, the one that was used last first.
-- KEYS: barriers. ARGV: root, a name or '' for all, number of names to skip, the most names.
-- Returns {number of names looked at, {name, generation, parties, their names, what a death does, when it breaks in ms or 0, why it is
-- broken, {party, when it arrived, its waiting as JSON or '', why it is gone or '', …}}, …}. Names that have expired are forgotten.
-- Costs: at most 20 names, which callers see to, and 200 parties of each.
--- @include "barriers"
local barriers = KEYS[1]
local root, wanted, skip, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local names = wanted ~= '' and {wanted} or redis.call('ZREVRANGE', barriers, skip, skip + most - 1)
local found = {#names}
for _, name in ipairs(names) do
  local b = open_barrier(root, name)
  if redis.call('EXISTS', b.state) == 1 then
    local parties = {}
    local arrived = redis.call('HSCAN', b.arrived, '0', 'COUNT', MOST_SENT)[2]
    for at = 1, math.min(#arrived, 2 * MOST_SENT), 2 do
      local party = arrived[at]
      parties[#parties + 1] = {party, arrived[at + 1], redis.call('HGET', b.waiting, party) or '', ''}
    end
    local gone = redis.call('HSCAN', b.gone, '0', 'COUNT', MOST_SENT)[2]
    for at = 1, math.min(#gone, 2 * MOST_SENT), 2 do parties[#parties + 1] = {gone[at], '0', '', gone[at + 1]} end
    local over = b.due > 0 and b.now >= b.due
    found[#found + 1] = {name, b.generation, b.parties, b.names, b.on_death, b.due, over and 'timeout' or b.broken,
      redis.call('HLEN', b.arrived), redis.call('HLEN', b.gone), parties}
  elseif wanted == '' then
    redis.call('ZREM', barriers, name)
  end
end
return found
