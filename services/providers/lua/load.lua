-- Take counters as they were rebuilt from the ledger, unless newer ones are here.
-- ARGV  5 and 6 end of the windows in milliseconds, 7-12 committed in the order of windows.NAMES, then for each hold
--       its name, its end in milliseconds, its day, its month, tokens, cost
local present = redis.call('HGET', HOLDS, 'epoch')
if present and tonumber(present) > tonumber(ARGV[1]) then return {'done'} end
redis.call('DEL', DAY, MONTH, HOLDS, EXPIRIES)
for offset, window in ipairs({DAY, MONTH}) do
  redis.call('HSET', window, 'epoch', ARGV[1])
  for unit, name in ipairs(UNITS) do
    redis.call('HSET', window, name .. '_committed', ARGV[6 + 2 * unit - 2 + offset], name .. '_held', '0')
  end
end
redis.call('HSET', HOLDS, 'epoch', ARGV[1])
for at = 13, #ARGV, 6 do
  redis.call('HSET', HOLDS, ARGV[at], table.concat({ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]}, ' '))
  redis.call('ZADD', EXPIRIES, ARGV[at + 1], ARGV[at])
  add('held', 1, ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]))
end
redis.call('PEXPIREAT', DAY, ARGV[5])
for _, key in ipairs({MONTH, HOLDS, EXPIRIES}) do redis.call('PEXPIREAT', key, ARGV[6]) end
return {'done'}
