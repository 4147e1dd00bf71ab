-- Adds steps to the plan of a run; they have no effect until an outcome says that they take the place of a step.
-- KEYS: run. ARGV: how many templates, number of a template, its text, …, step, its plan, …; the plan of `event:NAME` is the numbers
-- of the steps that wait for it.
-- Returns 1; 0 if the run is not kept any more.
-- Costs: three commands for each; the caller bounds how many.
local run_key, templates = KEYS[1], tonumber(ARGV[1])
if redis.call('EXISTS', run_key) == 0 then return 0 end
for at = 2, #ARGV, 2 do
  local name, text = ARGV[at], ARGV[at + 1]
  if at <= 2 * templates then
    -- One that is there is the same, or a placement to which agents were added.
    redis.call('HSETNX', run_key .. ':templates', name, text)
  else
    local waiting = name:find('^event:') and redis.call('HGET', run_key .. ':plan', name)
    redis.call('HSET', run_key .. ':plan', name, waiting and waiting .. ',' .. text or text)
  end
end
local keep_ms = redis.call('PTTL', run_key)
if keep_ms > 0 then
  for _, part in ipairs({':plan', ':templates'}) do redis.call('PEXPIRE', run_key .. part, keep_ms) end
end
return 1
