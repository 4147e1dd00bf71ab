-- One step of a search for dead letters.
-- KEYS: none.
-- ARGV: root, '1' for oldest first, lowest id, highest id (both as XRANGE takes them), most to find, most to look at, state
-- (open, parked, all), dimension, value, …
-- Returns {where to continue or '', how many were looked at, id, …}.
-- Costs: see search_letters.lua.
--- @include "search_letters"
local root, is_forward, low, high, limit, budget = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local state = ARGV[7]
local FIRST_PAIR = 8
local found = search_letters(root, {forward = is_forward == '1', low = low, high = high, limit = tonumber(limit),
  budget = tonumber(budget), state = state, pairs = {unpack(ARGV, FIRST_PAIR)}})
return {found.cursor, found.looked, unpack(found.ids)}
