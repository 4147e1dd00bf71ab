--- @include "mailbox_entry"
-- Who declares a singleton: a worker that has just started, by the field `singleton_ms` of the flow hash, and each later one by the
-- field `singletons` of its heartbeat. Its election is 'singleton:AGENT'.

-- Milliseconds within which a worker that has declared a singleton sends its first heartbeat.
local DECLARED_MS = 5000
local MOST_HOSTS = 1000

-- Calls visit(incarnation, whether it declares the singleton) for the living workers that host it, until that returns true.
local function each_host(root, election, visit)
  local agent = election:sub(#'singleton:' + 1)
  for at, incarnation in ipairs(redis.call('HKEYS', root .. 'hosts:' .. agent)) do
    if at > MOST_HOSTS then return true end
    if redis.call('ZSCORE', root .. 'leases', incarnation) then
      local declares = false
      for _, one in ipairs(queues_in(redis.call('HGET', root .. 'incarnation:' .. incarnation, 'singletons') or '') or {}) do
        declares = declares or one == agent
      end
      if visit(incarnation, declares) then return true end
    end
  end
  return false
end

-- Whether a singleton that nobody leads is none any more: no living worker declares it, and `incarnation` hosts it without
-- declaring it. One whose first heartbeat is still to come may declare it.
local function is_over(root, flow, election, incarnation)
  local age_ms = now_ms() - tonumber(redis.call('HGET', flow, 'singleton_ms') or 0)
  if math.abs(age_ms) < DECLARED_MS then return false end
  local hosts = false
  local is_declared = each_host(root, election, function(one, declares)
    hosts = hosts or one == incarnation
    return declares
  end)
  return hosts and not is_declared
end
