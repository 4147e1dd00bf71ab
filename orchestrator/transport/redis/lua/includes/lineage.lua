-- A replayed letter's message, with its lineage as the first member of the envelope and the other bytes untouched: decoding and
-- encoding it here would turn [] into {} and round large numbers.
local function with_lineage(m, lineage)
  local lead, rest
  if lineage then lead, rest = m:match('^(%s*){(%s*".*)$') end
  if not lead then return m end
  return lead .. '{"orc_lineage":' .. lineage .. ',' .. rest
end
