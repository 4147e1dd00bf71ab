-- Has the new runs of a workflow start paused, or no longer.
-- KEYS: paused workflows, hash of last publishes. ARGV: the workflow's name, '1' if they are to start paused, token of this call.
-- Returns 1 if that is a change, else 0; to a repeated call what it has returned to the first one.
-- Costs: five commands.
--- @include "mailbox_entry"
--- @include "recorded_answers"
local paused, publishes = KEYS[1], KEYS[2]
local name, is_paused, token = ARGV[1], ARGV[2] == '1', ARGV[3]
local answered = recorded_answer(publishes, token)
if answered then return tonumber(answered) end
even_when_full(paused)
local changed = redis.call(is_paused and 'SADD' or 'SREM', paused, name)
record_answer(publishes, token, changed)
return changed
