-- Gives a data set an identity, once, and records that the one before it was lost.
-- KEYS: dataset.
-- ARGV: id to take if there is none; id, ms of birth and epoch of the data set that the caller registered in before, or ''
-- Returns {id, ms of birth, epoch}
--- @include "mailbox_entry"
even_when_full(KEYS[1])
local dataset, lost = KEYS[1], ARGV[2]
local now = now_ms()
if redis.call('HSETNX', dataset, 'id', ARGV[1]) == 1 then
  redis.call('HSET', dataset, 'born_ms', now, 'epoch', 1)
end
local id, born, epoch, known = unpack(redis.call('HMGET', dataset, 'id', 'born_ms', 'epoch', 'lost_id'))
if lost ~= '' and lost ~= id and lost ~= known then
  redis.call('HSET', dataset, 'lost_id', lost, 'lost_born_ms', ARGV[3], 'lost_ms', now)
  redis.call('HDEL', dataset, 'acknowledged_ms')
  if tonumber(ARGV[4]) >= tonumber(epoch) then
    epoch = tonumber(ARGV[4]) + 1
    redis.call('HSET', dataset, 'epoch', epoch)
  end
end
return {id, tonumber(born), tonumber(epoch)}
