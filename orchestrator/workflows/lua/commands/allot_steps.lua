-- Gives numbers to steps that a handler which runs returns or calls; they are written to the plan next.
-- KEYS: run, hooks of the step's delivery. ARGV: the step's number in the plan, how many, most steps of a run.
-- Returns {the first number, nonce of the run's templates, the step's plan}; {-1} if the run takes none any more; {-2, steps that the
-- run has} if they are too many.
-- Costs: five commands.
local run_key, hooks = KEYS[1], KEYS[2]
local number, count, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local state, nonce, next_number, total = unpack(redis.call('HMGET', run_key, 'state', 'nonce', 'next', 'total'))
-- Also if it takes none: the outcome may say that the step waits for calls, and so has not ended.
if redis.call('HEXISTS', hooks, 'run') == 1 then redis.call('HSET', hooks, 'expand', '1') end
if state ~= 'running' and state ~= 'stopping' and state ~= 'failed' then return {-1} end
local first = tonumber(next_number or total)
if first + count > most then return {-2, first} end
redis.call('HSET', run_key, 'next', first + count)
return {first, nonce, redis.call('HGET', run_key .. ':plan', number)}
