-- Whether a mailbox' flow control has to be asked. Not without any, and not where all there is, is a closed breaker, which admits
-- everything. Scripts that accept messages ask this first: to ask the admission itself, Redis has to make a hundred functions.
local function needs_admission(flow)
  if redis.call('EXISTS', flow) == 0 then return false end
  local phase, limit, deferred, lanes = unpack(redis.call('HMGET', flow, 'phase', 'limit', 'deferred', 'concurrency'))
  return phase and phase ~= 'closed' or limit or deferred or lanes
end
