-- Puts letters aside, with a note; no filter for open letters finds them then. ARGV: root, act, note as JSON, ids…
-- Returns how many were open.
local root, parked = ARGV[1], 0
for i = 4, #ARGV do
  if letter_at(root, ARGV[i]) then
    parked = parked + redis.call('ZADD', root .. 'letters:parked', 0, padded(ARGV[i]))
    redis.call('HSET', root .. 'letters:notes', ARGV[i], ARGV[3])
    redis.call('ZREM', root .. 'letters:due', ARGV[i])
  end
end
note_progress(root, ARGV[2], 'done', parked)
return parked
