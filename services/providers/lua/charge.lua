-- Add what was used without a hold, today. ARGV  6 requests, 7 tokens, 8 cost
return settle(function(account)
  add(account, 'committed', ARGV[3], ARGV[4], {tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])})
  return true
end)
