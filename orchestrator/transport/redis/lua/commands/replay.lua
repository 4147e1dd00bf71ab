-- Replays dead letters, by their ids.
-- KEYS: none. ARGV: root, level, audit_id, '1' if automatic else '0', '1' to watch the outcomes, a message instead of the letter's or
-- '', ids…
-- Returns {'id id …' (not looked at), and what replay_batches() in replay_letters.lua adds}.
-- Costs: at most 1 MB and one letter; callers name at most 100.
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "replay_letters"
local root, level, audit_id, auto, watched, replacement = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local FIRST_ID = 7
local how = {root = root, level = level, audit_id = audit_id, auto = auto, watched = watched == '1', replacement = replacement}
local ids = {unpack(ARGV, FIRST_ID)}
local batches, looked_at = batches_to_replay(how.root, ids)
return with_events(replay_batches(how, batches, {table.concat(ids, ' ', looked_at + 1)}))
