--- @include "mailbox_entry"
--- @include "script_events"
--- @include "broadcasts"
-- The end of a copy of a broadcast, and compensations of copies; part of broadcasts.lua.

-- The message that undoes a copy, and what send_compensation() takes besides; nil if the sender gave none for it.
broadcasts.compensation = function(group, root, nonce, member)
  local c = read_json(member)
  local text = c and redis.call('HGET', group, 'text:' .. tostring(c[1]))
  if not text then return nil end
  local names = {agent = c[2], task = c[3], queue = c[4], id = c[6]}
  return (text:gsub('@' .. nonce .. ':(%a+)@', names)), {group, root, c[5], c[4], c[6]}
end

broadcasts.send_compensation = function(text, of)
  local group, root, level, queue, id = unpack(of)
  put(root .. 'q:' .. level .. ':' .. queue, text)
  count_accepted(root .. 'ledger:' .. queue, 1)
  emit_event('compensated', group, queue, id)
end

broadcasts.compensate = function(group, root, nonce, member)
  local text, of = broadcasts.compensation(group, root, nonce, member)
  if text then broadcasts.send_compensation(text, of) end
end

-- One copy of a broadcast has ended. The first one that dies has all handled copies compensated; a copy that is handled later is
-- compensated then. The last one to end ends the group.
broadcasts.member_ended = function(hooks, group, member, ended)
  local root, nonce, failed = unpack(redis.call('HMGET', group, 'root', 'nonce', 'failed'))
  if not root then return end
  local handled = group .. ':handled'
  if ended == 'handled' then
    if failed then broadcasts.compensate(group, root, nonce, member) else redis.call('RPUSH', handled, member) end
  end
  if ended == 'dead' then
    local text, of = broadcasts.compensation(group, root, nonce, member)
    if text then redis.call('HSET', hooks, 'undo', text, 'undo_of', cjson.encode(of)) end
  end
  if ended ~= 'handled' and not failed then
    redis.call('HSET', group, 'failed', 1)
    for _, other in ipairs(redis.call('LRANGE', handled, 0, -1)) do broadcasts.compensate(group, root, nonce, other) end
    redis.call('DEL', handled)
  end
  if redis.call('HINCRBY', group, 'pending', -1) <= 0 then redis.call('DEL', group, handled) end
end
