-- Reads what is held and who waits, of the names of one kind that were used last.
-- KEYS: names. ARGV: root, kind, a name or '' for all, number of names to skip, the most names.
-- Returns {number of names to skip in the next call, or -1 after the last name, {name, fence, permits, resources, number that wait,
-- {holder as JSON, …}}, …}; holders that are over are left out. Names that have expired are forgotten.
-- Costs: at most 50 names, which callers see to, and 100 holders of each; no further name after MOST_HOLDERS holders.
--- @include "named_leases"
local names = KEYS[1]
local root, kind, wanted, skip, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local MOST_HOLDERS = 400
local now = now_ms()
local tails = wanted ~= '' and {kind .. ':' .. wanted} or redis.call('ZREVRANGE', names, skip, skip + most - 1)
local found = {wanted == '' and #tails == most and 0 or -1}
local prefix = kind .. ':'
local next_name, looked_at = skip, 0
for _, tail in ipairs(tails) do
  if looked_at >= MOST_HOLDERS then
    found[1] = next_name
    return found
  end
  next_name = next_name + 1
  if tail:sub(1, #prefix) == prefix then
    local work = open_name(root, kind, tail:sub(#prefix + 1))
    work.now = now
    if redis.call('EXISTS', work.state) == 1 then
      read_state(work)
      local holders = {}
      if not work.single then
        local all = redis.call('HSCAN', work.holders, '0', 'COUNT', MOST)[2]
        looked_at = looked_at + math.min(#all / 2, MOST)
        for i = 2, math.min(#all, 2 * MOST), 2 do
          if not is_over(work, cjson.decode(all[i])) then holders[#holders + 1] = all[i] end
        end
      elseif work.held and not is_over(work, work.held) then
        holders[1] = cjson.encode(work.held)
      end
      found[#found + 1] = {work.name, work.fence, work.permits, work.resources, redis.call('ZCARD', work.line), holders}
    elseif wanted == '' then
      redis.call('ZREM', names, tail)
      next_name = next_name - 1
    end
  end
end
if found[1] == 0 then found[1] = next_name end
return found
