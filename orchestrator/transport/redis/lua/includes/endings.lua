--- @include "mailbox_entry"
-- Messages that end outside of an execution, for Celery: its result backend, errbacks and chords are known to its workers
-- only. What they need is appended to the stream `endings` by the script that ends the message, and a worker takes it
-- from there (see endings/stream.py). Fields: m message, q queue, s Celery's state, e error class or `expired`, t text, c '1' if
-- the message's arguments are left out.
-- The stream is bounded by number, bytes and age. `endings:dropped` counts what was not kept, until a worker has logged it.
local MOST_ENDINGS, MOST_ENDINGS_BYTES, ENDINGS_TTL_MS = 100000, 134217728, 604800000

-- Above this share of maxmemory nothing is appended, so that a purge frees memory.
local FULL = 0.9

-- A message larger than this is kept without its arguments.
local WHOLE = 4096

-- How a body ends that has no callbacks, errbacks, chain and chord: base64 of `{"callbacks": null, … "chord": null}]`, by
-- where the text begins in a group of three bytes.
local NOTHING_FOLLOWS = {
  'eyJjYWxsYmFja3MiOiBudWxsLCAiZXJyYmFja3MiOiBudWxsLCAiY2hhaW4iOiBudWxsLCAiY2hvcmQiOiBudWxsfV0=',
  'ImNhbGxiYWNrcyI6IG51bGwsICJlcnJiYWNrcyI6IG51bGwsICJjaGFpbiI6IG51bGwsICJjaG9yZCI6IG51bGx9XQ==',
  'Y2FsbGJhY2tzIjogbnVsbCwgImVycmJhY2tzIjogbnVsbCwgImNoYWluIjogbnVsbCwgImNob3JkIjogbnVsbH1d'}

-- Whether anybody but a receiver of signals has an interest in how this message ends.
local function has_interest(message, headers)
  if headers.ignore_result ~= true then return true end
  local body = message.body
  if type(body) ~= 'string' then return false end
  for _, tail in ipairs(NOTHING_FOLLOWS) do
    if body:sub(-#tail) == tail then return false end
  end
  return true
end

-- `{"callbacks"`, `"callbacks":` and `callbacks": ` as base64, by where the brace is in a group of three bytes.
local EMBED = {'eyJjYWxsYmFja3Mi', 'ImNhbGxiYWNrcyI6', 'Y2FsbGJhY2tzIjog'}

-- Where in a base64 body the group begins that holds the brace of what may be callbacks, errbacks, chain and chord; nil if
-- nowhere. Arguments may look like it, so there may be another one behind it.
local function embed_at(body)
  local first
  for i, text in ipairs(EMBED) do
    local at = body:find(text, 1, true)
    while at and at % 4 ~= 1 do at = body:find(text, at + 1, true) end
    if at and i > 1 then at = at - 4 end
    if at and at > 0 then first = math.min(first or at, at) end
  end
  return first
end

-- The message without its arguments; nil if they cannot be found. Cut as text: cjson would not write what it read.
local function without_arguments(m, body)
  local from = type(body) == 'string' and embed_at(body)
  local at = from and m:find(body, 1, true)
  return at and m:sub(1, at - 1) .. body:sub(from) .. m:sub(at + #body)
end

local function count_dropped(endings, count)
  if count == 0 then return end
  redis.call('INCRBY', endings .. ':dropped', count)
  redis.call('PEXPIRE', endings .. ':dropped', ENDINGS_TTL_MS)
end

-- Whether endings are kept now. Looked at once a script, which deals with some hundred messages at most.
local endings_kept
local function has_room(endings)
  if endings_kept ~= nil then return endings_kept end
  local info = redis.pcall('INFO', 'memory')
  local used = type(info) == 'string' and info:match('used_memory:(%d+)')
  local most = used and info:match('maxmemory:(%d+)')
  endings_kept = not most or tonumber(most) == 0 or tonumber(used) < FULL * tonumber(most)
  local length = redis.call('XLEN', endings)
  local bytes = length > 0 and redis.pcall('MEMORY', 'USAGE', endings, 'SAMPLES', 5)
  if length >= MOST_ENDINGS or type(bytes) == 'number' and bytes > MOST_ENDINGS_BYTES then
    count_dropped(endings, redis.call('XTRIM', endings, 'MAXLEN', '~', math.floor(length * 0.9)))
  end
  if length > 0 then
    count_dropped(endings, redis.call('XTRIM', endings, 'MINID', '~', ('%d'):format(now_ms() - ENDINGS_TTL_MS)))
  end
  return endings_kept
end

-- Appends an ending; with `always`, also where only receivers of signals are interested.
local function end_for_celery(ledger, m, state, error, text, always)
  local message = message_of(m)
  local headers = message and message.headers
  if type(headers) ~= 'table' or type(headers.id) ~= 'string' or type(headers.task) ~= 'string' then return end
  if not always and not has_interest(message, headers) then return end
  local at = ledger:find('orc:ledger:', 1, true)
  local endings = ledger:sub(1, at + 3) .. 'endings'
  if not has_room(endings) then return count_dropped(endings, 1) end
  local cut = #m > WHOLE and without_arguments(m, message.body)
  redis.call('XADD', endings, '*', 'm', cut or m, 'q', ledger:sub(at + 11), 's', state, 'e', error, 't', text, 'c',
    cut and '1' or '')
  redis.call('PEXPIRE', endings, ENDINGS_TTL_MS)
end
