-- Give the epoch of an account's counters, and what is committed and held in the order of windows.NAMES. ARGV  none
local account = ACCOUNTS[1]
local found = epoch(account)
if not found then return {'stale'} end
local answer = {found}
for _, kind in ipairs({'committed', 'held'}) do
  for _, unit in ipairs(UNITS) do
    for _, window in ipairs({account.day, account.month}) do
      answer[#answer + 1] = redis.call('HGET', window, unit .. '_' .. kind)
    end
  end
end
return answer
