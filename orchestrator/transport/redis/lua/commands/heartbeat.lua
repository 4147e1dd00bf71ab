-- Renews a lease.
-- KEYS: leases, incarnation, sweep, not_polling, OOM kills of its control group, cancelling, overrides of timeouts, endings, number
-- of endings that were dropped.
-- ARGV: root, id, the group's count if it has changed or '', '1' if the process does not consume although it should, '0' if it does
-- again, '' if nothing has changed, ms after which a heartbeat is missed, field, value, … (only what has changed).
-- Returns {0} without a lease, else {1, ms since the last sweep or -1, 2 if a death was proved since, 1 if a heartbeat is missed, else 0,
-- now, age in ms that the heartbeat before reported or 0, number of endings that wait for delivery, plus 1 if some were dropped,
-- 1 if messages were cancelled while workers had them, version of the overrides or 0 if there are none}.
-- Costs: at most twelve commands; two for each agent when its agents or slots have changed, two for each mailbox when these have.
--- @include "mailbox_entry"
--- @include "enter_host"
--- @include "servers"
--- @include "sweep_state"
local leases, incarnation_key, sweep, not_polling, oom_kills, cancelling = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local overrides, endings, endings_dropped = KEYS[7], KEYS[8], KEYS[9]
local root, id, oom_count, is_not_polling, missed_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local FIRST_FIELD = 6
even_when_full(leases)
if not redis.call('ZSCORE', leases, id) then return {0} end
-- Its age by its own clock shows a rewind: the times of leases follow Redis' clock wherever that jumps.
local before = redis.call('HGET', incarnation_key, 'age_ms') or 0
local now = now_ms()
redis.call('ZADD', leases, now, id)
local hosts_anew, queues = false, nil
for at = FIRST_FIELD, #ARGV, 2 do
  hosts_anew = hosts_anew or ARGV[at] == 'agents' or ARGV[at] == 'concurrency'
  if ARGV[at] == 'queues' then queues = ARGV[at + 1] end
end
local hosted = hosts_anew and redis.call('HGET', incarnation_key, 'agents')
if queues then enter_servers(root, id, redis.call('HGET', incarnation_key, 'queues'), queues) end
if #ARGV >= FIRST_FIELD then redis.call('HSET', incarnation_key, unpack(ARGV, FIRST_FIELD)) end
if hosts_anew then
  local agents, slots = unpack(redis.call('HMGET', incarnation_key, 'agents', 'concurrency'))
  enter_host(root, id, hosted, agents, slots)
end
-- Used only to judge a death within seconds.
if oom_count ~= '' then redis.call('SET', oom_kills, oom_count, 'PX', 60000) end
if is_not_polling == '1' then redis.call('ZADD', not_polling, now, id) end
if is_not_polling == '0' then redis.call('ZREM', not_polling, id) end
local since_sweep_ms, found = sweep_state(sweep, leases, missed_ms, now)
return {1, since_sweep_ms, found, now, tonumber(before),
  endings and redis.call('XLEN', endings) + redis.call('EXISTS', endings_dropped) or 0, redis.call('EXISTS', cancelling),
  tonumber(redis.call('HGET', overrides, '') or 0)}
