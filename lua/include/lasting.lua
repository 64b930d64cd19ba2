-- Included, after common.lua, by the scripts that grant or renew a lease. They define:
-- head_key, log_key, etags_key, lease_key, queue_key, present.

local QUEUE_MS = 60000 -- how long a queue outlives the lease that it waits for
local ROW = 1024 -- waiters that may be told how long the run is taken
local NEAR, NEAR_ROW = 2, 16 -- at a hand-off: so many processes, of so many waiters. To wake all would delay the next one

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A run does not expire under its holder. One that lasts for ever is left alone; head and log keep one deadline.
local function outlive(lasts)
  local left = redis.call('PTTL', head_key)
  if not present then
    if left < math.max(lasts, MEMORY_MS) then redis.call('PEXPIRE', head_key, math.max(lasts, MEMORY_MS)) end
    return
  end
  if left < 0 or left >= lasts then return end
  local deadline = text(now() + lasts)
  redis.call('PEXPIREAT', head_key, deadline)
  redis.call('PEXPIREAT', log_key, deadline)
  -- What is remembered of a deleted run may live longer than its successor.
  if redis.call('PTTL', etags_key) < lasts then redis.call('PEXPIREAT', etags_key, deadline) end
end

-- A message to a waiter's channel. Returns how many listened, or an error.
local function tell(channel, lasts, rank, holder)
  local words = {text(lasts), text(rank), holder, lease_key}
  return redis.pcall('PUBLISH', channel, table.concat(words, ' '))
end

-- Tells the next waiters how long the run is taken, and which of them comes when: they ask again if nobody has told
-- them more by then. It is advice: where it is lost, or may not be given, they come when they had thought before.
local function ring(lasts, all)
  local processes, row = all and ROW or NEAR, all and ROW or NEAR_ROW
  local told = {}
  local count = 0
  for rank, place in ipairs(redis.call('LRANGE', queue_key, 0, row - 1)) do
    local channel = string.match(place, '^%d+ %??(%S+) ')
    if channel and count < processes and not told[channel] then
      told[channel] = true
      -- One that nobody listens to does not count: its waiters are gone.
      if tell(channel, lasts, rank - 1, '-') ~= 0 then count = count + 1 end
    end
  end
  if next(told) then redis.call('PEXPIRE', queue_key, lasts + QUEUE_MS) end
end
