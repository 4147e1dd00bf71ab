-- Messages that end outside of an execution, for Celery: its result backend, errbacks and chords are known to its workers
-- only. What they need is appended to the stream `endings` by the script that ends the message, and a worker takes it
-- from there (see endings.py). Fields: m message, q queue, s Celery's state, e error class or `expired`, t text.

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

-- Appends an ending. `always` also does so where nobody has an interest but receivers of signals.
local function end_for_celery(ledger, m, state, error, text, always)
  local message = read_json(m)
  local headers = message and message.headers
  if type(headers) ~= 'table' or type(headers.id) ~= 'string' or type(headers.task) ~= 'string' then return end
  if not always and not has_interest(message, headers) then return end
  local at = ledger:find('orc:ledger:', 1, true)
  redis.call('XADD', ledger:sub(1, at + 3) .. 'endings', '*', 'm', m, 'q', ledger:sub(at + 11), 's', state, 'e', error,
    't', text)
end
