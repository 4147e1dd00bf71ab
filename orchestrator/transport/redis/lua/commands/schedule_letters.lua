-- Plans automatic replays for letters that came since the last call.
-- KEYS: none. ARGV: root, how many to look at, most automatic replays, ms before the first, reasons…
-- Returns {how many were looked at, id to park, …}; fewer than asked for if they are large.
-- Costs: reads at most 1 MB of the log and MOST_AT_ONCE letters.
--- @include "mailbox_entry"
--- @include "dead_letters"
local root = ARGV[1]
local count, most, first_ms = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local FIRST_REASON = 5
local wanted = {}
for i = FIRST_REASON, #ARGV do wanted[ARGV[i]] = true end
local seen = redis.call('GET', root .. 'letters:planned') or '0-0'
local out = {0}
local reasons = {}
local function reason_of(kind)
  if not reasons[kind] then reasons[kind] = (values_of(root, kind) or {})[REASON_AT] or '' end
  return reasons[kind]
end
local function plan(entry)
  local row = row_of(entry)
  if row.k and wanted[reason_of(row.k)] and not redis.call('ZSCORE', root .. 'letters:parked', padded(row.id)) then
    local auto = tonumber(row.auto or 0)
    if auto >= most then
      out[#out + 1] = row.id
    else
      redis.call('ZADD', root .. 'letters:due', tonumber(row.id:match('^%d+')) + first_ms * 2 ^ auto, row.id)
    end
  end
  seen = row.id
end
local bytes, some = 0, 1
while out[1] < count and bytes < MOST_BYTES do
  some = math.min(some, count - out[1])
  local before = bytes
  local entries = redis.call('XRANGE', root .. 'dead-letters', '(' .. seen, '+', 'COUNT', some)
  for _, entry in ipairs(entries) do
    bytes = bytes + size_of(entry)
    plan(entry)
  end
  out[1] = out[1] + #entries
  if #entries < some then break end
  some = next_count(some, bytes - before)
end
if out[1] > 0 then redis.call('SET', root .. 'letters:planned', seen) end
return out
