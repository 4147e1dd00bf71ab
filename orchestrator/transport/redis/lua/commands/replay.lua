-- Sends dead letters again, by their ids.
-- ARGV: root, step, audit_id, 1 if automatic else 0, '1' if somebody watches the outcomes, a message instead of the letter's
-- or '', ids…
-- Returns {'id id …', what replay_letters.lua says, …}; the first are those it did not come to.
--- @include "mailbox_entry"
--- @include "endings"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "breaker"
--- @include "dead_letters"
--- @include "admission"
--- @include "replay_letters"
local how = {root = ARGV[1], step = ARGV[2], audit_id = ARGV[3], auto = ARGV[4], watched = ARGV[5] == '1', instead = ARGV[6]}
local ids = {unpack(ARGV, 7)}
local lots, came_to = lots_to_send(how.root, ids)
return answer(replay_lots(how, lots, {table.concat(ids, ' ', came_to + 1)}))
