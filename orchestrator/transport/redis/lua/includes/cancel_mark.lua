--- @include "mailbox_entry"
--- @include "endings"
-- Ends a message that was about to be retried or requeued, if its sender cancelled it while a worker held it (find_delivery.lua
-- leaves a mark then). Returns whether it did.
local function cancelled_meanwhile(key, ledger, m, d, ttl_ms)
  local outcome = redis.call('HGET', hooks_of(key), 'cancel')
  if not outcome then return false end
  local headers = (message_of(m) or {}).headers
  add_count(ledger, 'cancelled', 1)
  end_for_celery(ledger, m, 'REVOKED', '', 'cancelled')
  record(key, with_history(cjson.decode(outcome), type(headers) == 'table' and headers.orc, d), ttl_ms, 'cancelled')
  return true
end
