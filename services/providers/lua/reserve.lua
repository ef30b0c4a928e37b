-- Hold one request, tokens and cost in every window, or in none.
-- ARGV  5 hold, 6 its end in milliseconds, 7 tokens, 8 cost, 9-14 limits in the order of windows.NAMES, '' for none
local found = epoch()
if found ~= ARGV[1] then return {'stale'} end
expire()
if redis.call('HEXISTS', HOLDS, ARGV[5]) == 1 then return {'held'} end
local tokens, cost = tonumber(ARGV[7]), tonumber(ARGV[8])
local want = {1, tokens, cost}
local answer = {'exceeded'}
for index = 1, 6 do
  local limit = ARGV[8 + index]
  if limit ~= '' then
    local unit = math.floor((index + 1) / 2)
    local window = index % 2 == 1 and DAY or MONTH
    local used = redis.call('HMGET', window, UNITS[unit] .. '_committed', UNITS[unit] .. '_held')
    if tonumber(used[1]) + tonumber(used[2]) + want[unit] > tonumber(limit) then answer[#answer + 1] = index end
  end
end
if #answer > 1 then return answer end
redis.call('HSET', HOLDS, ARGV[5], table.concat({ARGV[2], ARGV[3], ARGV[7], ARGV[8]}, ' '))
redis.call('ZADD', EXPIRIES, ARGV[6], ARGV[5])
redis.call('PEXPIREAT', EXPIRIES, redis.call('PEXPIRETIME', HOLDS)) -- the set is new when it was empty
add('held', 1, ARGV[2], ARGV[3], tokens, cost)
return {'held'}
