-- Turn a hold into what was really used. ARGV  6 hold, 7 tokens, 8 cost
-- Without a hold nothing is added: it may have been counted before, and only the ledger knows. The caller rebuilds then.
return settle(function(account)
  local day, month = drop(account, ARGV[6])
  if not day then return false end
  add(account, 'committed', day, month, {1, tonumber(ARGV[7]), tonumber(ARGV[8])})
  return true
end)
