-- Puts letters aside, with a note; no filter for open letters finds them then. ARGV: root, audit_id, note as JSON, ids…
-- Returns {how many ids it came to, the ids of those that were open, …}
-- Costs: reads at most 1 MB and one letter of the log; callers name at most 100.
--- @include "mailbox_entry"
--- @include "dead_letters"
local root, audit_id, note, out = ARGV[1], ARGV[2], ARGV[3], {0}
local bytes = 0
for i = 4, #ARGV do
  if bytes >= MOST_BYTES then break end
  local id = ARGV[i]
  local letter, size = letter_at(root, id)
  bytes, out[1] = bytes + size, i - 3
  if letter then
    if redis.call('ZADD', root .. 'letters:parked', 0, padded(id)) == 1 then out[#out + 1] = id end
    redis.call('HSET', root .. 'letters:notes', id, note)
    redis.call('ZREM', root .. 'letters:due', id)
  end
end
note_progress(root, audit_id, 'done', #out - 1)
return out
