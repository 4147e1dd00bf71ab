-- Wakes all readers that sleep at a mailbox' streams: the next message would go to one of them, although by now only a claim says
-- who may have it. Each takes one entry of the doorbell, and claims.
local function wake_readers(root, queue)
  local readers = math.min(redis.call('ZCARD', root .. 'leases'), 1000)
  for _ = 1, readers do redis.call('XADD', root .. 'q:bell:' .. queue, 'MAXLEN', readers, '*', 'b', '1') end
end
