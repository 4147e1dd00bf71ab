-- Parks letters, with a note: they are not found as open any more.
-- KEYS: none. ARGV: root, audit_id, note as JSON, ids…
-- Returns {number of ids that were looked at, the ids of those that were open, …}.
-- Costs: reads at most 1 MB and one letter of the log; callers name at most 100.
--- @include "mailbox_entry"
--- @include "dead_letters"
local root, audit_id, note = ARGV[1], ARGV[2], ARGV[3]
local FIRST_ID = 4
local out = {0}
local bytes = 0
for i = FIRST_ID, #ARGV do
  if bytes >= MOST_BYTES then break end
  local id = ARGV[i]
  local letter, size = letter_at(root, id)
  bytes, out[1] = bytes + size, i - FIRST_ID + 1
  if letter then
    if redis.call('ZADD', root .. 'letters:parked', 0, padded(id)) == 1 then out[#out + 1] = id end
    redis.call('HSET', root .. 'letters:notes', id, note)
    redis.call('ZREM', root .. 'letters:due', id)
  end
end
note_progress(root, audit_id, 'done', #out - 1)
return out
