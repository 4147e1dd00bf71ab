-- Removes dead letters. ARGV: root, act, ids… Returns how many there were.
even_when_full(ARGV[1] .. 'dead-letters')
local rows = {}
for i = 3, #ARGV do rows[#rows + 1] = letter_at(ARGV[1], ARGV[i]) end
drop_letters(ARGV[1], rows)
note_progress(ARGV[1], ARGV[2], 'done', #rows)
return #rows
