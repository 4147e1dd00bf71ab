-- Deletes a mailbox, some messages at a time. Each ends as cancelled, also one that a worker holds: that worker's end of
-- it finds nothing, and counts as duplicated.
-- KEYS: ledger, queues, delayed, bodies, bell, streams…
-- ARGV: queue, '1' if it was somebody's reply queue, group, batch, root, ms to keep outcomes
-- Returns how many were dropped; 0 once the mailbox is gone.
even_when_full(KEYS[1])
local left, dropped = tonumber(ARGV[4]), 0
local function drop(m, d, held)
  drop_message(ARGV[5], KEYS[1], m, d, 'mailbox deleted', ARGV[6], held)
  dropped = dropped + 1
end
for _, member in ipairs(redis.call('ZRANGE', KEYS[3], 0, left - 1)) do
  local body, d = scheduled(KEYS[4], member)
  unschedule(KEYS[3], KEYS[4], member)
  drop(body, d)
end
for k = 6, #KEYS do
  if left - dropped > 0 then
    for _, entry in ipairs(redis.call('XRANGE', KEYS[k], '-', '+', 'COUNT', left - dropped)) do
      local held = redis.pcall('XACK', KEYS[k], ARGV[3], entry[1])
      redis.call('XDEL', KEYS[k], entry[1])
      local m, d = fields(entry)
      drop(m, d, held == 1)
    end
  end
end
if dropped == 0 then
  redis.call('DEL', unpack(KEYS, 3))
  if ARGV[2] == '1' then
    redis.call('DEL', KEYS[1])
    redis.call('SREM', KEYS[2], ARGV[1])
  end
elseif ARGV[2] ~= '1' then
  redis.call('HINCRBY', KEYS[1], 'cancelled', dropped)
end
return answer(dropped)
