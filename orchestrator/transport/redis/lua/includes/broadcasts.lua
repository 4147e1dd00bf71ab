--- @include "mailbox_entry"
--- @include "script_events"
--- @include "extend"
-- Broadcasts: what the end of a copy comes to.
local broadcasts = {}
--- @extend broadcasts "broadcast_ends"
