-- Messages that are dropped with their mailbox, or from it.

-- Where in a stream begins what nobody has been given.
local function unread_from(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if groups.err or not groups[1] then return '-' end
  for i = 1, #groups[1], 2 do
    if groups[1][i] == 'last-delivered-id' then return '(' .. groups[1][i + 1] end
  end
  return '-'
end

-- Ends a message as cancelled. `held` says that a worker has it: that runs it, and tells Celery of it.
local function drop_message(root, ledger, m, d, by, ttl_ms, held)
  tell(root, m, {outcome = 'cancelled', by = by}, ttl_ms, d)
  if not held then end_for_celery(ledger, m or '', 'REVOKED', '', by) end
end
