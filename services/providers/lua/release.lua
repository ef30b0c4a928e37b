-- Give a hold back. ARGV  5 hold
local found = epoch()
if not found or tonumber(found) < tonumber(ARGV[1]) then return {'stale'} end
if found == ARGV[1] then drop(ARGV[5]) end
return {'done'}
