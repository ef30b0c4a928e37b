-- What the scripts of a quota share. A script is this text and its own; each runs alone, so it does all or nothing.
--
-- KEYS  1 window of the day, 2 window of the month, 3 holds, 4 expiries; one hash tag, so all are on one node
-- ARGV  1 epoch, 2 day, 3 month, 4 now in milliseconds; then the script's own
--
-- A window is a hash: epoch, and for requests, tokens and cost (nano-dollars) what is committed and what is held.
-- Holds is a hash: epoch, and for each hold "day month tokens cost". Expiries orders the holds by their end.
-- The epoch is that of the owner's row in PostgreSQL: counters of another epoch, or lost ones, count nothing.
local DAY, MONTH, HOLDS, EXPIRIES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local UNITS = {'requests', 'tokens', 'cost'}
local STEP = 50 -- holds that one call ends at most

local function integer(number)
  return string.format('%.0f', number)
end

-- The epoch that all counters have, or false when some are missing.
local function epoch()
  local found = redis.call('HGET', HOLDS, 'epoch')
  if not found or redis.call('HGET', DAY, 'epoch') ~= found or redis.call('HGET', MONTH, 'epoch') ~= found then
    return false
  end
  return found
end

-- Add to what is committed or held, in those of the present windows that the hold's day and month belong to.
local function add(kind, sign, day, month, tokens, cost)
  local amounts = {1, tokens, cost}
  for index, unit in ipairs(UNITS) do
    if amounts[index] > 0 then -- "-0" is no integer to Valkey
      local amount = integer(sign * amounts[index])
      if day == ARGV[2] then redis.call('HINCRBY', DAY, unit .. '_' .. kind, amount) end
      if month == ARGV[3] then redis.call('HINCRBY', MONTH, unit .. '_' .. kind, amount) end
    end
  end
end

local function parse(hold)
  local day, month, tokens, cost = string.match(hold, '^(%S+) (%S+) (%d+) (%d+)$')
  return day, month, tonumber(tokens), tonumber(cost)
end

-- End a hold; give its day and month, or nothing when there is none.
local function drop(id)
  local hold = redis.call('HGET', HOLDS, id)
  redis.call('ZREM', EXPIRIES, id)
  if not hold then return nil end
  local day, month, tokens, cost = parse(hold)
  add('held', -1, day, month, tokens, cost)
  redis.call('HDEL', HOLDS, id)
  return day, month
end

-- End some of the holds whose time is over.
local function expire()
  local due = redis.call('ZRANGEBYSCORE', EXPIRIES, '-inf', ARGV[4], 'LIMIT', 0, STEP)
  for _, id in ipairs(due) do drop(id) end
  return #due
end
