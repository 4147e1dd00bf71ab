-- One step of a search.
-- ARGV: root, '1' for oldest first, lowest id, highest id (both as XRANGE takes them), most to find, most to look at,
-- state (open, parked, all), dimension, value, …
-- Returns {where to go on or '', how many were looked at, id, …}
--- @include "mailbox_entry"
--- @include "dead_letters"
--- @include "search_letters"
local found = search_letters(ARGV[1], {forward = ARGV[2] == '1', low = ARGV[3], high = ARGV[4], limit = tonumber(ARGV[5]),
  budget = tonumber(ARGV[6]), state = ARGV[7], pairs = {unpack(ARGV, 8)}})
return {found.cursor, found.looked, unpack(found.ids)}
