-- Puts letters aside, with a note; no filter for open letters finds them then. ARGV: root, act, note as JSON, ids…
-- Returns the ids of those that were open.
local root, parked = ARGV[1], {}
for i = 4, #ARGV do
  if letter_at(root, ARGV[i]) then
    if redis.call('ZADD', root .. 'letters:parked', 0, padded(ARGV[i])) == 1 then parked[#parked + 1] = ARGV[i] end
    redis.call('HSET', root .. 'letters:notes', ARGV[i], ARGV[3])
    redis.call('ZREM', root .. 'letters:due', ARGV[i])
  end
end
note_progress(root, ARGV[2], 'done', #parked)
return parked
