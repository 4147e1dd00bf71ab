-- Wakes a reader of a mailbox whose agent limits how many of its messages run at a time: nobody sleeps at the streams of such a mailbox
-- (see claim.lua). Whatever puts a message into a mailbox calls ring_doorbell(), as put() does.

-- By flow hash, whether it has such a limit; and by stream, its mailbox' doorbell, or false. Each is looked up once a script.
local is_limited_by, bell_of = {}, {}

local function ring_doorbell(stream)
  local bell = bell_of[stream]
  if bell == nil then
    local root, queue = stream:match('^(.-orc:)q:[^:]*:(.*)$')
    local flow = root and root .. 'flow:' .. queue
    if flow and is_limited_by[flow] == nil then
      -- The message is in its mailbox: no key of another type may stop what follows.
      is_limited_by[flow] = redis.pcall('HEXISTS', flow, 'concurrency') == 1
    end
    bell = flow and is_limited_by[flow] and root .. 'q:bell:' .. queue
    bell_of[stream] = bell or false
  end
  if bell then redis.pcall('XADD', bell, 'MAXLEN', 4, '*', 'b', '1') end
end
