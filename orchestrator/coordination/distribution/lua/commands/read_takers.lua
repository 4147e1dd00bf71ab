-- How agents stand, as those who give out items need to know it.
-- KEYS: leases (not read). ARGV: root, group, number of levels, levels…, then of each agent: name, mailbox.
-- Returns of each {slots of its living incarnations, 0 if none lives; messages that wait; messages that are claimed; how many more its
-- mailbox takes, -1 for any number; '' or why it takes no more: `full` or `open`}.
-- Costs: two commands a level, 20 incarnations and 60 µs for flow control of each agent; so callers name at most 100.
--- @include "mailbox_entry"
--- @include "living_slots"
--- @include "script_events"
--- @include "outcome_hooks"
--- @include "dead_letters"
--- @include "admission"
local root, group, levels = ARGV[1], ARGV[2], tonumber(ARGV[3])
local FIRST_LEVEL, PER_AGENT, ANY_NUMBER = 4, 2, 1000000000
local agents = {}
for at = FIRST_LEVEL + levels, #ARGV, PER_AGENT do
  local agent, queue = ARGV[at], ARGV[at + 1]
  local length, claimed = 0, 0
  for level = FIRST_LEVEL, FIRST_LEVEL - 1 + levels do
    local stream = root .. 'q:' .. ARGV[level] .. ':' .. queue
    local there = redis.call('XLEN', stream)
    if there > 0 then
      local pending = redis.pcall('XPENDING', stream, group)
      length = length + there
      if not pending.err then claimed = claimed + pending[1] end
    end
  end
  local room, why = -1, ''
  local admission = admit(root .. 'flow:' .. queue, ANY_NUMBER, true, true)
  if admission then
    local least = admission.take
    if admission.limit > 0 then least = math.min(least, math.max(0, admission.limit - admission.before)) end
    if least < ANY_NUMBER then
      room, why = least, admission.refusal and admission.refusal[1] or 'full'
    end
  end
  agents[#agents + 1] = {math.ceil(living_slots(root, agent)), length - claimed, claimed, room, why}
end
return agents
