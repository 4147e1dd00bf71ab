-- What happened on the way and is worth an event. The script's answer carries it to Python, which emits it.
local told = {}
local function note(...)
  told[#told + 1] = {...}
end
local function answer(result)
  if #told == 0 then return result end
  return {'told', result, told}
end
