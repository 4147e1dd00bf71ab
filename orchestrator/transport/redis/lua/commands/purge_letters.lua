-- Removes dead letters. ARGV: root, audit_id, ids…
-- Returns {how many ids it came to, the ids of those that were there, …}
-- Costs: reads and removes at most 1 MB and one letter of the log; callers name at most 100.
--- @include "mailbox_entry"
--- @include "dead_letters"
local root, audit_id, came_to, bytes = ARGV[1], ARGV[2], 0, 0
even_when_full(root .. 'dead-letters')
local ids, of_kind, origins = {}, {}, {}
for i = 3, #ARGV do
  if bytes >= MOST_BYTES then break end
  local row, size = letter_at(root, ARGV[i])
  bytes, came_to = bytes + size, i - 2
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
return {came_to, unpack(ids)}
