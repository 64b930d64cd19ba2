-- Included, after common.lua, by the scripts that grant or renew a lease. They define
-- head_key, log_key, etags_key, lease_key, queue_key, and present.

local QUEUE_MS = 60000 -- how long a queue outlives the lease that it waits for
local ROW = 1024 -- waiters that are notified at a renewal, at most
local NEAR, NEAR_ROW = 2, 16 -- at a hand-off: this many processes, among this many waiters. More would delay the next

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Makes the run live for at least `lasts` ms, so that it does not expire under its holder. A run without a lifetime
-- is left alone. Head and log keep one deadline.
local function outlive(lasts)
  local left = redis.call('PTTL', head_key)
  if not present then -- guard: absent-head
    local least = math.max(lasts, MEMORY_MS) -- guard: absent-head-lifetime
    if left < least then redis.call('PEXPIRE', head_key, least) end -- guard: absent-head-renewed
    return
  end
  if left < 0 or left >= lasts then return end -- guard: longer-lifetime
  local deadline = text(now() + lasts)
  redis.call('PEXPIREAT', head_key, deadline) -- guard: head-outlives
  redis.call('PEXPIREAT', log_key, deadline) -- guard: log-outlives
  -- The list may hold what is remembered of a deleted run, which may live longer than its successor.
  if redis.call('PTTL', etags_key) < lasts then redis.call('PEXPIREAT', etags_key, deadline) end -- guard: etags-outlive
end

-- Publishes a message to a waiter's channel. Returns the number of listeners, or an error.
local function notify(channel, lasts, rank, holder)
  local words = {text(lasts), text(rank), holder, lease_key}
  return redis.pcall('PUBLISH', channel, table.concat(words, ' ')) -- guard: publish-errors
end

-- Notifies the next waiters how long the run is taken, and of their rank: when that time is over, they ask in the
-- order of their ranks. The message is advice. A waiter that misses it asks at the time that it knew before.
local function ring(lasts, all)
  local processes = all and ROW or NEAR -- guard: processes-notified
  local row = all and ROW or NEAR_ROW -- guard: row-notified
  local notified = {}
  local count = 0
  for rank, place in ipairs(redis.call('LRANGE', queue_key, 0, row - 1)) do -- guard: row-end
    local channel = string.match(place, '^%d+ %??(%S+) ')
    if channel and count < processes and not notified[channel] then -- guard: notified-once
      notified[channel] = true
      -- A process without listeners does not count: its waiters are gone.
      if notify(channel, lasts, rank - 1, '-') ~= 0 then count = count + 1 end -- guard: listeners-counted
    end
  end
  if next(notified) then redis.call('PEXPIRE', queue_key, lasts + QUEUE_MS) end -- guard: queue-outlives
end
