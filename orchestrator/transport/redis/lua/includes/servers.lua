--- @include "mailbox_entry"
-- Which incarnations serve a mailbox: the set ROOT servers:QUEUE. One that died is taken out when it is fenced, or by whoever finds
-- it without a lease.

-- Enters an incarnation whose mailboxes have changed; `before` and `now` are these as JSON.
local function enter_servers(root, id, before, now)
  local served = {}
  for _, queue in ipairs(queues_in(now or '') or {}) do
    served[queue] = true
    redis.call('SADD', root .. 'servers:' .. queue, id)
  end
  for _, queue in ipairs(queues_in(before or '') or {}) do
    if not served[queue] then redis.call('SREM', root .. 'servers:' .. queue, id) end
  end
end
