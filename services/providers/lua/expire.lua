-- End holds whose time is over, a step at a time. ARGV  none of its own
if epoch() then expire() end
return {'done'}
