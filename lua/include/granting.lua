-- Included, after lasting.lua, by the scripts that grant a lease. They define besides: head_fence.

local CLAIM_MS = 1000 -- how long a waiter that was handed the run has to claim it

-- The fence goes into the head at once: whoever held the run before is refused from now on, and not only from
-- the new holder's first save on, which a zombie's save would spoil.
local function grant(holder, lasts, time)
  local fence = text(math.max(head_fence + 1, time))
  -- A lease without an end would lock the run for ever: that it may be given one is proven before there is a lease.
  redis.call('PEXPIRE', lease_key, lasts)
  redis.call('HSET', head_key, 'fence', fence, 'holder', holder)
  redis.call('HSET', lease_key, 'holder', holder, 'fence', fence, 'since', text(time))
  redis.call('PEXPIRE', lease_key, lasts)
  outlive(lasts)
  return fence
end

-- Gives the run to the first waiter that listens, for as long as it has to claim it.
local function hand_off()
  local time = now()
  while true do
    local place = redis.call('LPOP', queue_key)
    if not place then return end
    local ttl, channel, waiter = string.match(place, '^(%d+) (%S+) (.+)$')
    local claim = math.min(tonumber(ttl or 0), CLAIM_MS)
    local fence = text(math.max(head_fence + 1, time))
    -- The server writes to whom it has a message for in the reverse order: the one that is next is told last.
    ring(claim, false)
    -- Where nobody listens the waiter is gone, or asks again as soon as it listens. An error tells nothing of that.
    if ttl and tell(channel, claim, 0, waiter, fence, time) ~= 0 then
      grant(waiter, claim, time)
      return
    end
  end
end
