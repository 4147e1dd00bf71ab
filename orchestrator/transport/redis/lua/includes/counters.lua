-- Counters in hashes: ledgers, statistics. Nothing that is counted may fail because a counter is no number.

-- Adds to a counter; returns what it is then. If something else has written there, what it is goes to the field 'broken: NAME', which
-- `doctor` and the ledger name, and the counter begins anew. Raises if the key is of another type.
local function add_count(key, field, by)
  local reply = redis.pcall('HINCRBY', key, field, by)
  if type(reply) == 'number' then return reply end
  if not reply.err:find('not an integer', 1, true) and not reply.err:find('overflow', 1, true) then error(reply.err, 0) end
  redis.call('HSET', key, 'broken: ' .. field, redis.call('HGET', key, field), field, by)
  return tonumber(by)
end

-- The same for what is done already: a key of another type is left as it is.
local function add_count_afterwards(key, field, by)
  pcall(add_count, key, field, by)
end
