-- Replays the next dead letters that a search finds, oldest first, so that their ids need not travel.
-- KEYS: none. ARGV: root, level, audit_id, '1' to watch the outcomes, lowest id, highest id (both as XRANGE takes them), most to
-- replay, most to look at, state (open, parked, all), dimension, value, …
-- Returns {where to continue or '', number of letters looked at, and what replay_batches() in replay_letters.lua adds}; {} if
-- they are of more than 64 kinds: merging these in each step would take longer than a replay by ids.
-- Costs: a search (see search_letters.lua), and at most 1 MB and one letter.
--- @include "mailbox_entry"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "search_letters"
--- @include "replay_letters"
local root, level, audit_id, watched, low, high = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local limit, budget, state = ARGV[7], ARGV[8], ARGV[9]
local FIRST_PAIR = 10
local MOST_MERGED = 64
local how = {root = root, level = level, audit_id = audit_id, auto = '0', watched = watched == '1', replacement = ''}
local found = search_letters(how.root, {forward = true, low = low, high = high, limit = tonumber(limit),
  budget = tonumber(budget), state = state, pairs = {unpack(ARGV, FIRST_PAIR)}, most_kinds = MOST_MERGED})
if not found then return {} end
how.gapless = found.gapless
local batches, looked_at = batches_to_replay(how.root, found.ids, found.kinds, found.entries)
local on = looked_at < #found.ids and found.ids[looked_at] or found.cursor
return with_events(replay_batches(how, batches, {on, looked_at}))
