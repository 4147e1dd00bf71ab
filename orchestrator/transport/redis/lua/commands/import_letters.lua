-- Adds letters of another log. A letter that is here already, under its own id or as an import, is skipped.
-- KEYS: none. ARGV: root, audit_id, then for each: m, letter, d, q, a, n, e, y, g, r, s, o, note or ''.
-- Returns the ids added.
-- Costs: what the letters weigh; callers name at most 100, and 1 MB and one letter of them. Reads letters of the log that are
-- here under their own ids.
--- @include "dead_letters"
local root, audit_id = ARGV[1], ARGV[2]
local FIRST_LETTER = 3
local FIELDS = {'m', 'letter', 'd', 'q', 'a', 'n', 'e', 'y', 'g', 'r', 's', 'o'}
local out = {}
for base = FIRST_LETTER, #ARGV, #FIELDS + 1 do
  local row = {}
  for i, name in ipairs(FIELDS) do row[name] = ARGV[base + i - 1] end
  local here = redis.call('HEXISTS', root .. 'letters:origins', row.o) == 1 or (letter_at(root, row.o))
  if not here then
    row.i = delivery_in(readable(row.m))
    local id = add_letter(root, row)
    redis.call('HSET', root .. 'letters:origins', row.o, id)
    if ARGV[base + #FIELDS] ~= '' then
      redis.call('ZADD', root .. 'letters:parked', 0, padded(id))
      redis.call('HSET', root .. 'letters:notes', id, ARGV[base + #FIELDS])
    end
    out[#out + 1] = id
  end
end
note_progress(root, audit_id, 'done', #out)
return out
