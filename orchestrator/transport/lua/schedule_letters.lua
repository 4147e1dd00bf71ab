-- Plans automatic retries for letters that came since it was last asked.
-- ARGV: root, how many to look at, most automatic retries, ms before the first, reasons…
-- Returns {how many were looked at, id to park, …}
local root, most, first_ms = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local wanted = {}
for i = 5, #ARGV do wanted[ARGV[i]] = true end
local seen = redis.call('GET', root .. 'letters:planned') or '0-0'
local entries = redis.call('XRANGE', root .. 'dead-letters', '(' .. seen, '+', 'COUNT', ARGV[2])
local out = {#entries}
local reasons = {}
local function reason_of(kind)
  if not reasons[kind] then reasons[kind] = (values_of(root, kind) or {})[REASON_AT] or '' end
  return reasons[kind]
end
for _, entry in ipairs(entries) do
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
if #entries > 0 then redis.call('SET', root .. 'letters:planned', seen) end
return out
