--- @include "mailbox_entry"
-- Which incarnations host an agent: the hash ROOT hosts:AGENT, incarnation -> how many messages it runs at once. One that died
-- is taken out when it is fenced, or by whoever finds it without a lease.

-- Enters an incarnation whose agents, or whose slots, have changed; `before` and `now` are its agents as JSON.
local function enter_host(root, id, before, now, slots)
  local hosted = {}
  for _, agent in ipairs(queues_in(now or '') or {}) do
    hosted[agent] = true
    redis.call('HSET', root .. 'hosts:' .. agent, id, slots or 1)
  end
  for _, agent in ipairs(queues_in(before or '') or {}) do
    if not hosted[agent] then redis.call('HDEL', root .. 'hosts:' .. agent, id) end
  end
end
