-- Ends a delivery as a dead letter that holds the message byte for byte.
-- KEYS: stream, ledger, dead letters, outcome or ''.
-- ARGV: group, id, letter as JSON, outcome as JSON without its closing brace, ms to keep the outcome
local entry = take(KEYS[1], ARGV[1], ARGV[2])
if not entry then
  redis.call('HINCRBY', KEYS[2], 'duplicated', 1)
  return 0
end
local m, d = fields(entry)
local id = redis.call('XADD', KEYS[3], '*', 'm', m or '', 'letter', ARGV[3], 'd', d or '')
redis.call('HINCRBY', KEYS[2], 'dead', 1)
if KEYS[4] ~= '' then record(KEYS[4], ARGV[4] .. ',"letter_id":"' .. id .. '"}', ARGV[5]) end
breaker_buried(flow_of(KEYS[2]), ARGV[3])
return answer(id)
