--- @include "mailbox_entry"
--- @include "script_events"
--- @include "endings"
--- @include "extend"
--- @include "within_text"
-- Asks: requests whose reply is put where it is wanted by the script that ends them.
local asks = {}
--- @extend asks "ask_ends"
