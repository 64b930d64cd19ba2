-- Included, after lasting.lua, by the scripts that grant a lease. They define head_fence besides.

local CLAIM_MS = 1000 -- how long a waiter has to claim a run that was handed to it

-- The head's field "left" names the last holders that left: "+" if they released a lease, "!" if they had lost it or
-- only waited, then the last 8 bytes of the holder's name and a space. A proxy may deliver an old request again. The
-- field stops a late acquire from taking the run, and gives a late release the same reply as before.
-- The server stores a field of up to 64 bytes compactly, hence the limit.
local LEFT_BYTES = 60
local function left_item(sign, name) return sign .. string.sub(name, -8) .. ' ' end -- guard: left-name
local function has_left(left, sign, name) return string.find(left or '', left_item(sign, name), 1, true) end
-- guard: left-kept
local function add_left(left, sign, name) return string.sub((left or '') .. left_item(sign, name), -LEFT_BYTES) end

-- Grants the lease and returns its fence. The fence goes into the head at once, so the previous holder is refused
-- from now on. Waiting for the new holder's first save would let a zombie save before it.
local function grant(holder, lasts, time)
  local fence = text(math.max(head_fence + 1, time)) -- guard: fence-rises
  -- A lease without an expiry would lock the run for ever. Prove that the server allows one before making the lease.
  redis.call('PEXPIRE', lease_key, lasts) -- guard: grant-expiry-first
  redis.call('HSET', head_key, 'fence', fence, 'holder', holder) -- guard: grant-writes-head
  redis.call('HSET', lease_key, 'holder', holder, 'fence', fence, 'since', text(time)) -- guard: granted
  redis.call('PEXPIRE', lease_key, lasts) -- guard: grant-expires
  outlive(lasts) -- guard: grant-outlived
  return fence
end

-- Hands the run to the first waiter that listens, for as long as it has to claim the run.
-- `asker` is the holder whose request runs this script, if it may wait too. Waiters before it are served first. The
-- asker's own place is removed, and waiters behind it keep theirs.
local function hand_off(asker)
  local time, passed = now(), 0
  while true do -- no guard: each of its returns is a guard
    local place = redis.call('LPOP', queue_key) -- guard: first-come
    if not place then return end -- guard: queue-empty
    local ttl, uncounted, channel, waiter = string.match(place, '^(%d+) (%??)(%S+) (.+)$') -- guard: queue-item
    if asker and waiter == asker then return end -- guard: hand-off-ends-at-asker
    local claim = math.min(tonumber(ttl or 0), CLAIM_MS) -- guard: hand-off-is-a-claim
    -- The server delivers to its clients in reverse order, so the next waiter is notified last.
    ring(claim, false) -- guard: neighbours-notified
    -- A count of 0 has three causes. The waiter is gone. Or its doorbell is reconnecting, and it asks again as soon as
    -- it listens. Or it listens at a replica, where this server does not count it: it asks in its turn, and then marks
    -- its place with "?", which makes the count irrelevant. An error says nothing about listeners.
    if ttl and (notify(channel, claim, passed, waiter) ~= 0 or uncounted ~= '') then -- guard: waiter-listens
      grant(waiter, claim, time) -- guard: waiter-granted
      if passed > 0 then notify(channel, claim, 0, waiter) end -- guard: granted-comes-at-once
      return -- guard: handed-over
    end
    passed = passed + 1 -- guard: passed-counted
  end
end
