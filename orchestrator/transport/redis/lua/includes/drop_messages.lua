--- @include "mailbox_entry"
--- @include "endings"
-- Messages that are dropped with their mailbox, or from it.

-- Where a stream's unclaimed messages begin, for XRANGE.
local function unread_from(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if groups.err or not groups[1] then return '-' end
  for i = 1, #groups[1], 2 do
    if groups[1][i] == 'last-delivered-id' then return '(' .. groups[1][i + 1] end
  end
  return '-'
end

-- The number of claimed messages of a stream.
local function claimed_in(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if groups.err or not groups[1] then return 0 end
  for i = 1, #groups[1], 2 do
    if groups[1][i] == 'pending' then return groups[1][i + 1] end
  end
  return 0
end

-- Ends a message as cancelled. `held` says that a worker has it: that runs it, and tells Celery of it.
local function drop_message(root, ledger, m, d, by, ttl_ms, held)
  record_if_tracked(root, m, {outcome = 'cancelled', by = by}, ttl_ms, d)
  if not held then end_for_celery(ledger, m or '', 'REVOKED', '', by) end
end

-- Takes out the first messages that are not yet due, at most `most`, and at most 1 MB and one message, and calls
-- `drop(m, d)` for each. Returns how many.
local function drop_delayed(delayed, bodies, most, drop)
  local dropped, bytes = 0, 0
  for _, member in ipairs(redis.call('ZRANGE', delayed, 0, most - 1)) do
    if bytes >= MOST_BYTES then break end
    local body, d = scheduled(bodies, member)
    unschedule(delayed, bodies, member)
    drop(body, d)
    dropped, bytes = dropped + 1, bytes + #(body or '')
  end
  return dropped
end

-- The same with the first messages of a stream from an id on: calls `drop(entry)`, which takes it out.
local function drop_waiting(stream, from, most, drop)
  local dropped, bytes, some = 0, 0, 1
  while dropped < most do
    some = math.min(some, most - dropped)
    local before = bytes
    local entries = redis.call('XRANGE', stream, from, '+', 'COUNT', some)
    for _, entry in ipairs(entries) do
      if bytes >= MOST_BYTES then return dropped end
      drop(entry)
      dropped, bytes = dropped + 1, bytes + size_of(entry)
    end
    if #entries < some or bytes >= MOST_BYTES then break end
    some = next_count(some, bytes - before)
  end
  return dropped
end
