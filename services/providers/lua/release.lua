-- Give a hold back. ARGV  6 hold
return settle(function(account)
  drop(account, ARGV[6])
  return true
end)
