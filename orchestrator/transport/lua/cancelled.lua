-- Ends what was about to be tried again or handed on, if its sender has cancelled it while a worker had it (find.lua left
-- a mark then). Returns whether it did.
local function cancelled_meanwhile(key, ledger, m, d, ttl_ms)
  local outcome = redis.call('HGET', key .. ':then', 'cancel')
  if not outcome then return false end
  local known, deaths = pcall(cjson.decode, d or '[]')
  redis.call('HINCRBY', ledger, 'cancelled', 1)
  record(key, with_past(cjson.decode(outcome), cjson.decode(m).headers.orc, known and deaths), ttl_ms)
  return true
end
