-- How many messages the living incarnations of an agent run at once, all together; 0 if none lives. Of many, some are looked at
-- (see enter_host.lua).
local function living_slots(root, agent)
  local hosts, at_once, most_looks = root .. 'hosts:' .. agent, 20, 5
  for _ = 1, most_looks do
    local count = redis.call('HLEN', hosts)
    if count == 0 then return 0 end
    local some = redis.call('HRANDFIELD', hosts, at_once, 'WITHVALUES')
    local ids, dead, slots = {}, {}, 0
    for at = 1, #some, 2 do ids[#ids + 1] = some[at] end
    for at, beat in ipairs(redis.call('ZMSCORE', root .. 'leases', unpack(ids))) do
      if beat then slots = slots + math.max(1, tonumber(some[2 * at]) or 1) else dead[#dead + 1] = ids[at] end
    end
    if #dead > 0 then redis.call('HDEL', hosts, unpack(dead)) end
    if slots > 0 then return slots * count / #ids end
  end
  return 0
end
