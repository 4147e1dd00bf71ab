-- JSON text, as it stands within a JSON string.
local function within_text(json)
  if not json:find('[\\"]') then return json end
  return (json:gsub('[\\"]', '\\%0'))
end
