-- Hold one request, tokens and cost in every window of owner and tenant, or in none.
-- ARGV  6 hold, 7 its end in milliseconds, 8 tokens, 9 cost; then limits, '' for none: 10-15 the owner's in the order of
--       windows.NAMES, 16 how many holds the owner may have at once, 17-22 the tenant's
local answer = {'stale'}
for place, account in ipairs(ACCOUNTS) do
  if epoch(account) ~= account.epoch then answer[#answer + 1] = place end
end
if #answer > 1 then return answer end

local want = {1, tonumber(ARGV[8]), tonumber(ARGV[9])}
local missing = {}
answer = {'exceeded'}
for place, account in ipairs(ACCOUNTS) do
  expire(account)
  if redis.call('HEXISTS', account.holds, ARGV[6]) == 0 then -- held before by a twin of this request, else
    missing[#missing + 1] = account
    for index = 1, 6 do
      local limit = ARGV[9 + 7 * (place - 1) + index]
      if limit ~= '' then
        local unit = math.floor((index + 1) / 2)
        local window = index % 2 == 1 and account.day or account.month
        local used = redis.call('HMGET', window, UNITS[unit] .. '_committed', UNITS[unit] .. '_held')
        if tonumber(used[1]) + tonumber(used[2]) + want[unit] > tonumber(limit) then
          answer[#answer + 1] = 7 * (place - 1) + index
        end
      end
    end
    if place == 1 and ARGV[16] ~= '' and redis.call('HLEN', account.holds) > tonumber(ARGV[16]) then -- with the epoch
      answer[#answer + 1] = 7
    end
  end
end
if #answer > 1 then return answer end

for _, account in ipairs(missing) do
  redis.call('HSET', account.holds, ARGV[6], table.concat({ARGV[3], ARGV[4], ARGV[8], ARGV[9]}, ' '))
  redis.call('ZADD', account.expiries, ARGV[7], ARGV[6])
  -- The set is new when it was empty.
  redis.call('PEXPIREAT', account.expiries, redis.call('PEXPIRETIME', account.holds))
  add(account, 'held', ARGV[3], ARGV[4], want)
end
return {'held'}
