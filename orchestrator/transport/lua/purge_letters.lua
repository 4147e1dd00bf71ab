-- Removes dead letters. ARGV: root, act, ids… Returns the ids of those that were there.
even_when_full(ARGV[1] .. 'dead-letters')
local ids, of_kind, origins = {}, {}, {}
for i = 3, #ARGV do
  local row = letter_at(ARGV[1], ARGV[i])
  if row then
    ids[#ids + 1] = row.id
    if row.o then origins[#origins + 1] = row.o end
    if row.k then
      of_kind[row.k] = of_kind[row.k] or {}
      table.insert(of_kind[row.k], row.id)
    end
  end
end
drop_letters(ARGV[1], ids, of_kind, origins)
note_progress(ARGV[1], ARGV[2], 'done', #ids)
return ids
