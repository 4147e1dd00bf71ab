-- An error that says that a key is of another type, or holds what this library does not write there, as a text. Raises every other one
-- again: a server that refuses for now is not to be taken for a broken key.
local function why_unreadable(caught)
  local text = type(caught) == 'table' and caught.err or tostring(caught)
  for _, sign in ipairs({'WRONGTYPE', 'not an integer', 'not a valid float', 'overflow', 'attempt to ', 'bad argument'}) do
    if text:find(sign, 1, true) then return text end
  end
  error(caught, 0)
end
