--- @include "counters"
-- The budget of retries and hedges of a mailbox, a field of its counters of calls. The rule is core/calls/call_budget.py.
local BUDGET_START, BUDGET_MOST, BUDGET_DEPOSIT, BUDGET_PRICE = 1000, 10000, 10, 100

local function call_budget(calls)
  return tonumber(redis.call('HGET', calls, 'budget') or BUDGET_START) or BUDGET_START
end

local function has_call_budget(calls)
  if call_budget(calls) >= BUDGET_PRICE then return true end
  add_count(calls, 'over_budget', 1)
  return false
end

local function deposit_call(calls)
  redis.call('HSET', calls, 'budget', math.min(BUDGET_MOST, call_budget(calls) + BUDGET_DEPOSIT))
end

local function spend_call(calls)
  redis.call('HSET', calls, 'budget', call_budget(calls) - BUDGET_PRICE)
end
