-- Removes dead letters.
-- KEYS: none. ARGV: root, audit_id, ids…
-- Returns {number of ids that were looked at, the ids of those that were there, …}.
-- Costs: reads and removes at most 50 letters, of 1 MB and one letter.
--- @include "mailbox_entry"
--- @include "dead_letters"
local root, audit_id = ARGV[1], ARGV[2]
local FIRST_ID, MOST_REMOVED = 3, 50
local looked_at, bytes = 0, 0
even_when_full(root .. 'dead-letters')
local ids, of_kind, origins = {}, {}, {}
for i = FIRST_ID, #ARGV do
  if bytes >= MOST_BYTES or looked_at >= MOST_REMOVED then break end
  local row, size = letter_at(root, ARGV[i])
  bytes, looked_at = bytes + size, i - FIRST_ID + 1
  if row then
    ids[#ids + 1] = row.id
    if row.o then origins[#origins + 1] = row.o end
    if row.k then
      of_kind[row.k] = of_kind[row.k] or {}
      table.insert(of_kind[row.k], row.id)
    end
  end
end
drop_letters(root, ids, of_kind, origins)
note_progress(root, audit_id, 'done', #ids)
return {looked_at, unpack(ids)}
