-- Included, after lasting.lua, by the scripts that grant a lease. They define besides: head_fence.

local CLAIM_MS = 1000 -- how long a waiter that was handed the run has to claim it

-- The head remembers the last who left in its field "left": "+" if they gave up a lease, "!" if they had lost it or only
-- waited, and how their names end. A proxy may deliver a request again that was answered long ago: no copy of their
-- acquire takes the run, and a copy of a release is told the same again. A longer field would not be stored as compactly.
local LEFT_BYTES = 60
local function trace(sign, name) return sign .. string.sub(name, -8) .. ' ' end
local function has_left(left, sign, name) return string.find(left or '', trace(sign, name), 1, true) end
local function with(left, sign, name) return string.sub((left or '') .. trace(sign, name), -LEFT_BYTES) end

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

-- Hands the run to the first waiter that listens, for as long as it has to claim it.
-- `me` asks just now: those before it are served; its own place is taken out, and those behind it keep theirs.
local function hand_off(me)
  local time, passed = now(), 0
  while true do
    local place = redis.call('LPOP', queue_key)
    if not place then return end
    local ttl, unheard, channel, waiter = string.match(place, '^(%d+) (%??)(%S+) (.+)$')
    if me and waiter == me then return end
    local claim = math.min(tonumber(ttl or 0), CLAIM_MS)
    -- The server writes to whom it has a message for in the reverse order: the one that is next is told last.
    ring(claim, false)
    -- Where nobody listens the waiter is gone, or asks again as soon as it listens. Or it listens where this server
    -- does not count it, at a replica: it asks again in its turn. After that its place says so, and no count matters.
    -- An error tells nothing of all that.
    if ttl and (tell(channel, claim, passed, waiter) ~= 0 or unheard ~= '') then
      grant(waiter, claim, time)
      if passed > 0 then tell(channel, claim, 0, waiter) end
      return
    end
    passed = passed + 1
  end
end
