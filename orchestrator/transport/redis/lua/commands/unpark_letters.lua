-- Makes parked letters open again.
-- KEYS: none. ARGV: root, audit_id, ids…
-- Returns the ids of those that were parked.
-- Costs: two commands an id, without reading the letter; callers name at most 100.
--- @include "dead_letters"
local root, audit_id = ARGV[1], ARGV[2]
local FIRST_ID = 3
local opened = {}
for i = FIRST_ID, #ARGV do
  if redis.call('ZREM', root .. 'letters:parked', padded(ARGV[i])) == 1 then opened[#opened + 1] = ARGV[i] end
  redis.call('HDEL', root .. 'letters:notes', ARGV[i])
end
note_progress(root, audit_id, 'done', #opened)
return opened
