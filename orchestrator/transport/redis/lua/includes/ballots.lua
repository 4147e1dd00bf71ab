--- @include "mailbox_entry"
--- @include "script_events"
--- @include "extend"
--- @include "within_text"
-- Ballots: what scripts count and decide.
local ballots = {}
--- @extend ballots "ballot_votes"
