-- Removes schedules whose owner is gone: those of an incarnation that has ended, or an app's static ones that no living scheduler declares.
-- KEYS: schedulers. ARGV: root, owner ('i:INCARNATION', 's:APP' or 'a:APP'), most to remove, most entries of the
-- history, '1' to remove static ones that are declared as well.
-- Returns {number removed, 1 if there may be more, id, …}.
-- Costs: the static schedules of the app once; what is removed.
--- @include "schedules"
local schedulers = KEYS[1]
local root, owner, most, most_entries, declared_or_not = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local of = root .. 'schedules-of:' .. owner
even_when_full(of)
local app = declared_or_not == '' and owner:match('^[sa]:(.*)$')
local ids
if app then
  local declared = {}
  local all = redis.call('HGETALL', schedulers)
  for at = 1, #all, 2 do
    local set = root .. 'scheduler-declares:' .. all[at]
    if redis.call('EXISTS', set) == 0 then
      redis.call('HDEL', schedulers, all[at])
    elseif all[at + 1] == app then
      declared[#declared + 1] = set
    end
  end
  -- Without a living scheduler of the app, nobody knows what it declares.
  if #declared == 0 then return {0, 0} end
  ids = redis.call('SDIFF', of, unpack(declared))
else
  ids = redis.call('SRANDMEMBER', of, most)
end
local out = {0, #ids > most and 1 or 0}
local totals = {}
for at = 1, math.min(#ids, most) do
  local id = ids[at]
  schedules.remove(root, id, totals, most_entries)
  schedules.disown(root, owner, id)
  out[#out + 1] = id
end
out[1] = #out - 2
if not app and redis.call('SCARD', of) > 0 then out[2] = 1 end
schedules.add_totals(root, totals)
return with_events(out)
