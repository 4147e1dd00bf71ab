-- Whether one of the incarnations in a mailbox' set of servers lives (see servers.lua). A few commands; more only where dead ones are still in the set.
local function is_served(leases, servers)
  local some = 20
  while true do
    local ids = redis.call('SRANDMEMBER', servers, some)
    if #ids == 0 then return false end
    for _, beat in ipairs(redis.call('ZMSCORE', leases, unpack(ids))) do
      if beat then return true end
    end
    redis.call('SREM', servers, unpack(ids))
  end
end
