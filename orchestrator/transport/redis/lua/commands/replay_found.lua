-- Sends the next dead letters again that a search finds, oldest first: they need not travel to be named.
-- ARGV: root, step, audit_id, '1' if somebody watches the outcomes, lowest id, highest id (both as XRANGE takes them), most to
-- send, most to look at, state (open, parked, all), dimension, value, …
-- Returns {where to go on or '', how many it came to, what replay_letters.lua says, …}; {} if they are of so many kinds that merging
-- these for each step would take longer than naming the letters.
--- @include "mailbox_entry"
--- @include "endings"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "breaker"
--- @include "dead_letters"
--- @include "admission"
--- @include "search_letters"
--- @include "replay_letters"
local MOST_MERGED = 64
local how = {root = ARGV[1], step = ARGV[2], audit_id = ARGV[3], auto = '0', watched = ARGV[4] == '1', instead = ''}
local found = search_letters(how.root, {forward = true, low = ARGV[5], high = ARGV[6], limit = tonumber(ARGV[7]),
  budget = tonumber(ARGV[8]), state = ARGV[9], pairs = {unpack(ARGV, 10)}, most_kinds = MOST_MERGED})
if not found then return {} end
how.gapless = found.gapless
local lots, came_to = lots_to_send(how.root, found.ids, found.kinds, found.entries)
local on = came_to < #found.ids and found.ids[came_to] or found.cursor
return answer(replay_lots(how, lots, {on, came_to}))
