--- @include "mailbox_entry"
-- Included by all scripts that touch monitors.
-- A monitor is a field of the hash `monitors`: ref -> owner, owner's agent ('' for a session), ms of creation, tag as
-- JSON, origin, target as it was named, and those of its incarnations that still live, separated by newlines. Its ref
-- is also in the set `monitors-of:OWNER` and in the sorted set `monitors-on:INCARNATION`; `monitor-owners` and
-- `monitor-targets` name those sets. The sorted ones are in the order of the owners' numbers: when a target dies, its
-- owners come one after the other, and what is the same for all monitors of one owner is done once.
local function number_of(owner)
  return string.match(owner, '#(%d+)$') or '0'
end

local function parsed(record)
  local owner, agent, at, tag, origin, target, left = string.match(record or '',
    '^([^\n]+)\n([^\n]*)\n(%d+)\n([^\n]+)\n([^\n]*)\n([^\n]+)\n([^\n].*)$')
  if not owner then return nil end
  local living = {left}
  if string.find(left, '\n', 1, true) then
    living = {}
    for incarnation in string.gmatch(left, '[^\n]+') do living[#living + 1] = incarnation end
  end
  return {owner = owner, agent = agent, at = tonumber(at), tag = tag, origin = origin, target = target, left = living}
end

local function packed(m)
  return table.concat({m.owner, m.agent, string.format('%.0f', m.at), m.tag, m.origin, m.target,
    table.concat(m.left, '\n')}, '\n')
end

-- What one script has touched, so that it is put in order once, in finish().
local function begin(root, template, level, supervision)
  return {root = root, template = template, level = level, default = supervision,
    supervision = {}, envelopes = {}, wordings = {}, accepted = {}, owners = {}, targets = {}, counts = {}, alive = {}}
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

-- Asks about many at once.
local function look_up(work, ids, agents)
  if #ids > 0 then
    for i, score in ipairs(redis.call('ZMSCORE', work.root .. 'leases', unpack(ids))) do
      work.alive[ids[i]] = score and true or false
    end
  end
  if #agents > 0 then
    for i, known in ipairs(redis.call('HMGET', work.root .. 'down-supervision', unpack(agents))) do
      work.supervision[agents[i]] = known or work.default
    end
  end
end

-- Text that is JSON already, as it stands within a JSON string.
local function escaped(json)
  if not string.find(json, '[\\"]') then return json end
  return (string.gsub(json, '[\\"]', '\\%0'))
end

-- The template, taken apart once: each mark is a place of its own, to be filled in.
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

-- The template with all filled in that is the same for all DOWNs of an agent, and the places of what is not.
local function envelope(work, agent)
  if not work.pieces then work.pieces, work.marks = taken_apart(work.template) end
  local values = {TASK = agent .. '.on_down', QUEUE = agent, SUPERVISION = work.supervision[agent]}
  local pieces, ids, bodies = {''}, {}, {}
  for place, piece in ipairs(work.pieces) do
    local mark = work.marks[place]
    local places = mark == 'ID' and ids or mark == 'BODY' and bodies
    if places then
      places[#places + 1] = #pieces + 1
      pieces[#pieces + 2] = ''
      pieces[#pieces + 1] = ''
    else
      pieces[#pieces] = pieces[#pieces] .. (mark and values[mark] or piece)
    end
  end
  return {pieces = pieces, ids = ids, bodies = bodies, stream = work.root .. 'q:' .. work.level .. ':' .. agent}
end

-- What a DOWN says, without its ref and tag: what comes between the two, and what comes after them.
local function wording(work, m, reason)
  local key = m.owner .. '\n' .. m.target
  local known = work.wordings[key]
  if not known then
    local between = ',"target":' .. cjson.encode(m.target) .. ',"reason":' .. cjson.encode(reason) .. ',"tag":'
    local after = ',"owner":' .. cjson.encode(m.owner) .. '}'
    known = {between, after, escaped(between), escaped(after)}
    work.wordings[key] = known
  end
  return known
end

-- Records a DOWN: in the mailbox of the owner's agent as a message like any other, or in the session's inbox. All DOWNs
-- of one script have the same reason.
local function down(work, ref, m, reason)
  count(work, 'downs', 1)
  local words, agent = wording(work, m, reason), m.agent
  if agent == '' then
    redis.call('RPUSH', work.root .. 'downs:' .. m.owner, '{"ref":' .. ref .. words[1] .. m.tag .. words[2])
    return
  end
  if not work.supervision[agent] then look_up(work, {}, {agent}) end
  local made = work.envelopes[agent]
  if not made then
    made = envelope(work, agent)
    work.envelopes[agent] = made
  end
  local pieces, id = made.pieces, 'down-' .. ref
  local body = '"[[{\\"ref\\":' .. ref .. words[3] .. escaped(m.tag) .. words[4] .. '],{},{}]"'
  for _, place in ipairs(made.ids) do pieces[place] = id end
  for _, place in ipairs(made.bodies) do pieces[place] = body end
  put(made.stream, table.concat(pieces))
  work.accepted[agent] = (work.accepted[agent] or 0) + 1
end

-- Takes monitors out of the hash and of every set: `ended` is ref, monitor, ref, monitor … Each set is changed once, as every
-- command costs much more than one more argument.
local function unlink(work, ended)
  if #ended == 0 then return end
  local refs, of, on = {}, {}, {}
  local function out_of(sets, touched, id, ref)
    local there = sets[id]
    if there then there[#there + 1] = ref else sets[id] = {ref} end
    touched[id] = true
  end
  for i = 1, #ended, 2 do
    local ref, m = ended[i], ended[i + 1]
    refs[#refs + 1] = ref
    out_of(of, work.owners, m.owner, ref)
    for _, incarnation in ipairs(m.left) do out_of(on, work.targets, incarnation, ref) end
  end
  redis.call('HDEL', work.root .. 'monitors', unpack(refs))
  for id, members in pairs(of) do redis.call('SREM', work.root .. 'monitors-of:' .. id, unpack(members)) end
  for id, members in pairs(on) do redis.call('ZREM', work.root .. 'monitors-on:' .. id, unpack(members)) end
end

-- Sets that are empty now are not named any more.
local function forget_empty(root, kind, names, touched)
  local ids, sets = {}, {}
  for id in pairs(touched) do
    ids[#ids + 1] = id
    sets[#sets + 1] = root .. kind .. id
  end
  if #ids == 0 or redis.call('EXISTS', unpack(sets)) == #sets then return end
  for i, id in ipairs(ids) do
    if redis.call('EXISTS', sets[i]) == 0 then redis.call('SREM', root .. names, id) end
  end
end

local function finish(work)
  local root, queues = work.root, {}
  forget_empty(root, 'monitors-of:', 'monitor-owners', work.owners)
  forget_empty(root, 'monitors-on:', 'monitor-targets', work.targets)
  for agent, n in pairs(work.accepted) do
    add_count(root .. 'ledger:' .. agent, 'accepted', n)
    queues[#queues + 1] = agent
  end
  if #queues > 0 then redis.call('SADD', root .. 'queues', unpack(queues)) end
  for name, n in pairs(work.counts) do add_count(root .. 'monitor-stats', name, n) end
end
