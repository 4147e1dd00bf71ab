-- Counts what was just put last into a stream, as add_count() in counters.lua does where the counter is no number. If the ledger is a key
-- of another type, takes it out again and raises: nothing is accepted and not counted.
local function count_or_undo(ledger, counter, by, stream, why)
  if not why:find('WRONGTYPE', 1, true) then
    redis.call('HSET', ledger, 'broken: ' .. counter, redis.call('HGET', ledger, counter), counter, by)
    return tonumber(by)
  end
  for _, entry in ipairs(redis.call('XREVRANGE', stream, '+', '-', 'COUNT', by)) do redis.call('XDEL', stream, entry[1]) end
  error(why, 0)
end
