-- End holds whose time is over, a step at a time. ARGV  none of its own
for _, account in ipairs(ACCOUNTS) do
  if epoch(account) then expire(account) end
end
return {'done'}
