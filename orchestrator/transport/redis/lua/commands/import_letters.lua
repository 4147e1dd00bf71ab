-- Takes in letters of another log. One that is here, under its own id or as an import, is passed over.
-- ARGV: root, audit_id, then for each: m, letter, d, q, a, n, e, y, g, r, s, o, note or ''. Returns the ids added.
-- Costs: what the letters weigh, so callers name at most 100, and 1 MB and one letter of them; and reads letters of the log that
-- are here under their own ids.
--- @include "mailbox_entry"
--- @include "dead_letters"
local FIELDS = {'m', 'letter', 'd', 'q', 'a', 'n', 'e', 'y', 'g', 'r', 's', 'o'}
local root, out = ARGV[1], {}
for base = 3, #ARGV, 13 do
  local row = {}
  for i, name in ipairs(FIELDS) do row[name] = ARGV[base + i - 1] end
  local here = redis.call('HEXISTS', root .. 'letters:origins', row.o) == 1 or (letter_at(root, row.o))
  if not here then
    row.i = delivery_in(readable(row.m))
    local id = add_letter(root, row)
    redis.call('HSET', root .. 'letters:origins', row.o, id)
    if ARGV[base + 12] ~= '' then
      redis.call('ZADD', root .. 'letters:parked', 0, padded(id))
      redis.call('HSET', root .. 'letters:notes', id, ARGV[base + 12])
    end
    out[#out + 1] = id
  end
end
note_progress(root, ARGV[2], 'done', #out)
return out
