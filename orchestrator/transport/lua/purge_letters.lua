-- Removes dead letters up to an id, some at a time. KEYS: dead letters. ARGV: newest id to remove, batch
local rows = redis.call('XRANGE', KEYS[1], '-', ARGV[1], 'COUNT', ARGV[2])
for _, row in ipairs(rows) do redis.call('XDEL', KEYS[1], row[1]) end
return #rows
