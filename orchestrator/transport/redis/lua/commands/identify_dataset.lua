-- Gives a data set an identity, once, and records that the one before it was lost.
-- KEYS: dataset.
-- ARGV: id to take if there is none; id, ms of birth and epoch of the data set that the caller registered in before, or ''.
-- Returns {id, ms of birth, epoch}.
-- Costs: at most seven commands.
--- @include "mailbox_entry"
local dataset = KEYS[1]
local new_id, lost, born_ms, lost_epoch = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
even_when_full(dataset)
local now = now_ms()
if redis.call('HSETNX', dataset, 'id', new_id) == 1 then
  redis.call('HSET', dataset, 'born_ms', now, 'epoch', 1)
end
local id, born, epoch, known = unpack(redis.call('HMGET', dataset, 'id', 'born_ms', 'epoch', 'lost_id'))
if lost ~= '' and lost ~= id and lost ~= known then
  redis.call('HSET', dataset, 'lost_id', lost, 'lost_born_ms', born_ms, 'lost_ms', now)
  redis.call('HDEL', dataset, 'acknowledged_ms')
  if tonumber(lost_epoch) >= tonumber(epoch) then
    epoch = tonumber(lost_epoch) + 1
    redis.call('HSET', dataset, 'epoch', epoch)
  end
end
return {id, tonumber(born), tonumber(epoch)}
