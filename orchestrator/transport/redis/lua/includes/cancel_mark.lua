--- @include "endings"
-- Ends what was about to be tried again or handed on, if its sender has cancelled it while a worker had it (find_delivery.lua left
-- a mark then). Returns whether it did.
local function cancelled_meanwhile(key, ledger, m, d, ttl_ms)
  local outcome = redis.call('HGET', hooks_of(key), 'cancel')
  if not outcome then return false end
  local headers = (message_of(m) or {}).headers
  redis.call('HINCRBY', ledger, 'cancelled', 1)
  end_for_celery(ledger, m, 'REVOKED', '', 'cancelled')
  record(key, with_past(cjson.decode(outcome), type(headers) == 'table' and headers.orc, d), ttl_ms, 'cancelled')
  return true
end
