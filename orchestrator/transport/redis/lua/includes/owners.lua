-- Who owns what: incarnations and sessions, and the attempts that they run. `work` has the `root` of the keys.

local function life(work, owner)
  if redis.call('ZSCORE', work.root .. 'leases', owner) then return 'alive' end
  return redis.call('ZSCORE', work.root .. 'dying', owner) and 'dying' or 'gone'
end

-- Whether the attempt with this entry ("ID@STREAM") still runs: it is pending, and its owner's. One that was acknowledged early
-- ("early TASK") is pending nowhere: it runs as long as its owner lives, for all that is known here.
local function has_entry(owner, entry)
  if entry:sub(1, 6) == 'early ' then return true end
  local id, stream = entry:match('^([^@]+)@(.+)$')
  local pending = id and redis.pcall('XPENDING', stream, 'workers', id, id, 1)
  return pending and not pending.err and pending[1] and pending[1][2] == owner or false
end

local function runs(work, owner, entry)
  return life(work, owner) == 'alive' and (entry == '' or has_entry(owner, entry))
end

-- Why an owner that does not live any more has died.
local function reason_of(work, owner)
  return redis.call('HGET', work.root .. 'incarnation:' .. owner, 'reason') or 'lost'
end
