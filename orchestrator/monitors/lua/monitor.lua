-- Shared by the scripts below; Python puts it in front of each.
-- A monitor is a field of the hash `monitors`: ref -> owner, owner's agent ('' for a session), ms of creation, tag as
-- JSON, origin, target as it was named, and those of its incarnations that still live, separated by newlines. Its ref
-- is also in the sets `monitors-of:OWNER` and `monitors-on:INCARNATION`; `monitor-owners` and `monitor-targets` name
-- those sets.
local function parsed(record)
  local owner, agent, at, tag, origin, target, left = string.match(record or '',
    '^([^\n]+)\n([^\n]*)\n(%d+)\n([^\n]+)\n([^\n]*)\n([^\n]+)\n([^\n].*)$')
  if not owner then return nil end
  local living = {}
  for incarnation in string.gmatch(left, '[^\n]+') do living[#living + 1] = incarnation end
  return {owner = owner, agent = agent, at = tonumber(at), tag = tag, origin = origin, target = target, left = living}
end

local function packed(m)
  return table.concat({m.owner, m.agent, string.format('%.0f', m.at), m.tag, m.origin, m.target,
    table.concat(m.left, '\n')}, '\n')
end

-- What one script has touched, so that it is put in order once, in finish().
local function begin(root, template, step, supervision)
  return {root = root, template = template, step = step, default = supervision,
    supervision = {}, quoted = {}, accepted = {}, owners = {}, targets = {}, counts = {}, alive = {}}
end

local function count(work, name, n)
  work.counts[name] = (work.counts[name] or 0) + n
end

local function lives(work, id)
  local known = work.alive[id]
  if known == nil then
    known = redis.call('ZSCORE', work.root .. 'leases', id) and true or false
    work.alive[id] = known
  end
  return known
end

local function quoted(work, text)
  local known = work.quoted[text]
  if not known then
    known = cjson.encode(text)
    work.quoted[text] = known
  end
  return known
end

-- The template, taken apart once: each mark is a place of its own, to be filled in for each message.
local function taken_apart(template)
  local pieces, marks, from = {}, {}, 1
  while true do
    local first, last, name = string.find(template, '@(%u+)@', from)
    pieces[#pieces + 1] = string.sub(template, from, (first or 0) - 1)
    if not first then return pieces, marks end
    pieces[#pieces + 1] = ''
    marks[#pieces] = name
    from = last + 1
  end
end

-- Records a DOWN: in the mailbox of the owner's agent as a message like any other, or in the session's inbox.
local function down(work, ref, m, reason)
  local text = '{"ref":' .. ref .. ',"target":' .. quoted(work, m.target) .. ',"reason":' .. quoted(work, reason) ..
    ',"tag":' .. m.tag .. ',"owner":' .. quoted(work, m.owner) .. '}'
  count(work, 'downs', 1)
  if m.agent == '' then
    redis.call('RPUSH', work.root .. 'downs:' .. m.owner, text)
    return
  end
  local agent = m.agent
  local supervision = work.supervision[agent]
  if not supervision then
    supervision = redis.call('HGET', work.root .. 'down-supervision', agent) or work.default
    work.supervision[agent] = supervision
  end
  if not work.pieces then work.pieces, work.marks = taken_apart(work.template) end
  local values = {ID = 'down-' .. ref, TASK = agent .. '.on_down', QUEUE = agent, SUPERVISION = supervision,
    BODY = cjson.encode('[[' .. text .. '],{},{}]')}
  for place, name in pairs(work.marks) do work.pieces[place] = values[name] end
  redis.call('XADD', work.root .. 'q:' .. work.step .. ':' .. agent, '*', 'm', table.concat(work.pieces))
  work.accepted[agent] = (work.accepted[agent] or 0) + 1
end

-- Takes a monitor out of the hash and of every set.
local function unlink(work, ref, m)
  redis.call('HDEL', work.root .. 'monitors', ref)
  redis.call('SREM', work.root .. 'monitors-of:' .. m.owner, ref)
  work.owners[m.owner] = true
  for _, incarnation in ipairs(m.left) do
    redis.call('SREM', work.root .. 'monitors-on:' .. incarnation, ref)
    work.targets[incarnation] = true
  end
end

local function finish(work)
  local root = work.root
  for owner in pairs(work.owners) do
    if redis.call('EXISTS', root .. 'monitors-of:' .. owner) == 0 then
      redis.call('SREM', root .. 'monitor-owners', owner)
    end
  end
  for target in pairs(work.targets) do
    if redis.call('EXISTS', root .. 'monitors-on:' .. target) == 0 then
      redis.call('SREM', root .. 'monitor-targets', target)
    end
  end
  for agent, n in pairs(work.accepted) do
    redis.call('HINCRBY', root .. 'ledger:' .. agent, 'accepted', n)
    redis.call('SADD', root .. 'queues', agent)
  end
  for name, n in pairs(work.counts) do redis.call('HINCRBY', root .. 'monitor-stats', name, n) end
end
