-- Functions of a table that are made when one of them is first asked for: a line `@extend` includes a part so (see scripts.py). Redis
-- makes every function that it comes by anew in each call of a script, which takes longer than what a common call does with a few.
local extensions = {}

local function extend(of, make)
  if extensions[of] then
    table.insert(extensions[of], make)
    return
  end
  local waiting = {make}
  extensions[of] = waiting
  setmetatable(of, {__index = function(_, name)
    while waiting[1] do
      table.remove(waiting, 1)()
      local made = rawget(of, name)
      if made ~= nil then return made end
    end
  end})
end
