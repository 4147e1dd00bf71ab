-- Makes parked letters open again. ARGV: root, audit_id, ids… Returns the ids of those that were parked.
--- @include "mailbox_entry"
--- @include "dead_letters"
local root, opened = ARGV[1], {}
for i = 3, #ARGV do
  if redis.call('ZREM', root .. 'letters:parked', padded(ARGV[i])) == 1 then opened[#opened + 1] = ARGV[i] end
  redis.call('HDEL', root .. 'letters:notes', ARGV[i])
end
note_progress(root, ARGV[2], 'done', #opened)
return opened
