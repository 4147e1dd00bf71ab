-- Makes parked letters open again. ARGV: root, act, ids… Returns how many were parked.
local root, opened = ARGV[1], 0
for i = 3, #ARGV do
  opened = opened + redis.call('ZREM', root .. 'letters:parked', padded(ARGV[i]))
  redis.call('HDEL', root .. 'letters:notes', ARGV[i])
end
note_progress(root, ARGV[2], 'done', opened)
return opened
