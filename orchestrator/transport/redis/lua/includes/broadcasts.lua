--- @include "mailbox_entry"
--- @include "script_events"
--- @include "extend"
-- Broadcasts: what follows the end of a copy. Few deliveries are copies, so its functions are made when one is needed.
local broadcasts = {}
--- @extend broadcasts "broadcast_ends"
