--- @include "mailbox_entry"
--- @include "script_events"
--- @include "extend"
-- Schedules: what scripts write of them.
local schedules = {}
--- @extend schedules "schedule_changes"
