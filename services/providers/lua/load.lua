-- Take the counters of an account as they were rebuilt from the ledger, unless these or newer ones are here: a client that
-- lost the answer sends the same again, and what was held in between must stay.
-- ARGV  6 and 7 end of the windows in milliseconds, 8-13 committed in the order of windows.NAMES, then for each hold
--       its name, its end in milliseconds, its day, its month, tokens, cost
local account = ACCOUNTS[1]
for _, key in ipairs({account.holds, account.day, account.month}) do
  local present = redis.call('HGET', key, 'epoch')
  if present and tonumber(present) >= tonumber(account.epoch) then return {'done'} end
end
redis.call('DEL', account.day, account.month, account.holds, account.expiries)
for offset, window in ipairs({account.day, account.month}) do
  redis.call('HSET', window, 'epoch', account.epoch)
  for unit, name in ipairs(UNITS) do
    redis.call('HSET', window, name .. '_committed', ARGV[7 + 2 * unit - 2 + offset], name .. '_held', '0')
  end
end
redis.call('HSET', account.holds, 'epoch', account.epoch)
for at = 14, #ARGV, 6 do
  redis.call('HSET', account.holds, ARGV[at], table.concat({ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]}, ' '))
  redis.call('ZADD', account.expiries, ARGV[at + 1], ARGV[at])
  add(account, 'held', ARGV[at + 2], ARGV[at + 3], {1, tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])})
end
redis.call('PEXPIREAT', account.day, ARGV[6])
for _, key in ipairs({account.month, account.holds, account.expiries}) do redis.call('PEXPIREAT', key, ARGV[7]) end
return {'done'}
