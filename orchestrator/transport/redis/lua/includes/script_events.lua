-- Events of a script: they travel to Python with its reply, and are emitted there (see script_events.py). One that Python knows from
-- the reply need not travel, and is a comment, `--- @event kind, values`; chaos runs record those, too.
local events = {}
local function emit_event(...)
  events[#events + 1] = {...}
end
-- A script's reply, with its events if there are any.
local function with_events(reply)
  if #events == 0 then return reply end
  return {'events', reply, events}
end
