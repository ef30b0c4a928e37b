-- Turn a hold into what was really used. ARGV  5 hold, 6 tokens, 7 cost
-- Without a hold nothing is added: it may have been counted before, and only the ledger knows. The caller rebuilds then.
local found = epoch()
if not found or tonumber(found) < tonumber(ARGV[1]) then return {'stale'} end
if found ~= ARGV[1] then return {'done'} end -- rebuilt since, from a ledger that has this commit
local day, month = drop(ARGV[5])
if not day then return {'stale'} end
add('committed', 1, day, month, tonumber(ARGV[6]), tonumber(ARGV[7]))
return {'done'}
