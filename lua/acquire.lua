-- acquire: take a run's lease, claim one that was handed over, or queue for it. May be repeated as it is.
--
-- KEYS[1] head   hash     KEYS[2] log    stream   KEYS[3] etags  list
-- KEYS[4] marks  hash     KEYS[5] lease  hash     KEYS[6] queue  list
-- ARGV[1] holder   names one acquisition; the same in all copies of its requests
-- ARGV[2] ttl      milliseconds that the lease lives
-- ARGV[3] channel  where the holder's process listens, after a "?" if PUBLISH does not count it; "" = do not queue
--
-- Returns {"granted", fence} | {"queued", holder, pttl, rank} | {"held", holder, pttl}
--       | {"cancelled"} | {"format", found}
-- A waiter that was handed the run, or whose time to ask again has come, sends the same request again.

local head_key, log_key, etags_key, marks_key, lease_key, queue_key =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local holder, ttl, channel = ARGV[1], ARGV[2], ARGV[3]
local lasts = tonumber(ttl)

local head = redis.call('HMGET', head_key, 'format', 'etag', 'fence', 'left')
local present, head_fence, left = head[2], tonumber(head[3] or '0'), head[4]

-- include common
-- include lasting
-- include granting

if present and head[1] ~= '1' then return {'format', head[1] or ''} end -- guard: format
-- This acquisition was given up, and this is a late copy of it. It must not leave a lease that no process knows of.
if has_left(left, '+', holder) -- guard: released
  or has_left(left, '!', holder) -- guard: left
  or redis.call('HEXISTS', marks_key, holder) == 1 -- guard: marked
then
  return {'cancelled'}
end

local lease = redis.call('HMGET', lease_key, 'holder', 'fence')
-- The run is free and others wait: serve them first. Nobody barges.
if redis.call('LINDEX', queue_key, 0) and not lease[1] then -- guard: nobody-barges
  hand_off(holder) -- guard: queue-served
  lease = redis.call('HMGET', lease_key, 'holder', 'fence') -- guard: lease-read-again
end

if not lease[1] then return {'granted', grant(holder, lasts, now())} end -- guard: free-run
if lease[1] == holder then -- guard: own-lease
  redis.call('PEXPIRE', lease_key, lasts) -- guard: claim-prolongs
  outlive(lasts) -- guard: claim-outlived
  ring(lasts, false) -- guard: claim-announced
  return {'granted', lease[2]}
end

local ends = redis.call('PTTL', lease_key)
if channel == '' then return {'held', lease[1], ends} end -- guard: no-channel
-- Another copy may have queued the holder already, with or without the "?".
local bare = string.match(channel, '^%??(.+)$') -- guard: channel-name
local rank =
  redis.call('LPOS', queue_key, ttl .. ' ' .. bare .. ' ' .. holder) or -- guard: queued-counted
  redis.call('LPOS', queue_key, ttl .. ' ?' .. bare .. ' ' .. holder) or -- guard: queued-uncounted
  redis.call('RPUSH', queue_key, ttl .. ' ' .. channel .. ' ' .. holder) - 1 -- guard: queue-place
redis.call('PEXPIRE', queue_key, math.max(ends, 0) + QUEUE_MS) -- guard: queue-expires
return {'queued', lease[1], ends, rank}
