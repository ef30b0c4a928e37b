-- What the scripts of a quota share. A script is this text and its own; each runs alone, so it does all or nothing.
--
-- KEYS  of each account four: window of the day, window of the month, holds, expiries. First the owner's, then, where a
--       script works on both, the tenant's. One hash tag, so all are on one node
-- ARGV  1 epoch of the first account, 2 of the second, 3 day, 4 month, 5 now in milliseconds; then the script's own
--
-- A window is a hash: epoch, and for requests, tokens and cost (nano-dollars) what is committed and what is held.
-- Holds is a hash: epoch, and for each hold "day month tokens cost". Expiries orders the holds by their end.
-- The epoch is that of the account's row in PostgreSQL: counters of another epoch, or lost ones, count nothing.
local UNITS = {'requests', 'tokens', 'cost'}
local STEP = 50 -- holds that one call ends at most of each account

local ACCOUNTS = {}
for first = 1, #KEYS, 4 do
  local place = #ACCOUNTS + 1
  ACCOUNTS[place] = {
    day = KEYS[first], month = KEYS[first + 1], holds = KEYS[first + 2], expiries = KEYS[first + 3], epoch = ARGV[place],
  }
end

local function integer(number)
  return string.format('%.0f', number)
end

-- The epoch that all counters of an account have, or false when some are missing.
local function epoch(account)
  local found = redis.call('HGET', account.holds, 'epoch')
  if not found or redis.call('HGET', account.day, 'epoch') ~= found
      or redis.call('HGET', account.month, 'epoch') ~= found then
    return false
  end
  return found
end

-- Add to what is committed or held, in those of the present windows that the day and month belong to.
local function add(account, kind, day, month, amounts)
  for index, unit in ipairs(UNITS) do
    if amounts[index] ~= 0 then -- "-0" is no integer to Valkey
      local amount = integer(amounts[index])
      if day == ARGV[3] then redis.call('HINCRBY', account.day, unit .. '_' .. kind, amount) end
      if month == ARGV[4] then redis.call('HINCRBY', account.month, unit .. '_' .. kind, amount) end
    end
  end
end

local function parse(hold)
  local day, month, tokens, cost = string.match(hold, '^(%S+) (%S+) (%d+) (%d+)$')
  return day, month, tonumber(tokens), tonumber(cost)
end

-- End a hold; give its day and month, or nothing when there is none.
local function drop(account, id)
  local hold = redis.call('HGET', account.holds, id)
  redis.call('ZREM', account.expiries, id)
  if not hold then return nil end
  local day, month, tokens, cost = parse(hold)
  add(account, 'held', day, month, {-1, -tokens, -cost})
  redis.call('HDEL', account.holds, id)
  return day, month
end

-- End some of the holds whose time is over.
local function expire(account)
  local due = redis.call('ZRANGEBYSCORE', account.expiries, '-inf', ARGV[5], 'LIMIT', 0, STEP)
  for _, id in ipairs(due) do drop(account, id) end
end

-- Do this to each account whose counters are of the epoch that the caller saw. Newer ones were rebuilt since, from a
-- ledger that has what the caller tells of; older or lost ones, and those of which `act` says false, must be rebuilt.
local function settle(act)
  local answer = {'done'}
  for place, account in ipairs(ACCOUNTS) do
    local found = epoch(account)
    if not found or tonumber(found) < tonumber(account.epoch) then
      answer[#answer + 1] = place
    elseif found == account.epoch and not act(account) then
      answer[#answer + 1] = place
    end
  end
  return answer
end
