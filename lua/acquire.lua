-- acquire: take a run's lease, claim one that was handed over, or queue for it. May be repeated as it is.
--
-- KEYS[1] head   hash     KEYS[2] log    stream   KEYS[3] etags  list
-- KEYS[4] marks  hash     KEYS[5] lease  hash     KEYS[6] queue  list
-- ARGV[1] holder   names one acquisition over all its copies
-- ARGV[2] ttl      milliseconds that the lease lives
-- ARGV[3] channel  where the holder's process listens; "" = do not queue; after a "?": though it is not counted there
--
-- Returns {"granted", fence} | {"queued", holder, pttl, rank} | {"held", holder, pttl}
--       | {"cancelled"} | {"format", found}
-- A waiter that was handed the run, or whose time to ask again has come, sends this same request.

local head_key, log_key, etags_key, marks_key, lease_key, queue_key =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local holder, ttl, channel = ARGV[1], ARGV[2], ARGV[3]
local lasts = tonumber(ttl)

local head = redis.call('HMGET', head_key, 'format', 'etag', 'fence', 'left')
local present, head_fence, left = head[2], tonumber(head[3] or '0'), head[4]

-- include common
-- include lasting
-- include granting

if present and head[1] ~= '1' then return {'format', head[1] or ''} end
-- Given up: this is the late copy that the mark was left for. It must not leave a lease that nobody knows of.
if has_left(left, '+', holder) or has_left(left, '!', holder) or redis.call('HEXISTS', marks_key, holder) == 1 then
  return {'cancelled'}
end

local lease = redis.call('HMGET', lease_key, 'holder', 'fence')
-- The run is free, and others wait: whoever comes serves them first. Nobody barges.
if redis.call('LINDEX', queue_key, 0) and not lease[1] then
  hand_off(holder)
  lease = redis.call('HMGET', lease_key, 'holder', 'fence')
end

if not lease[1] then return {'granted', grant(holder, lasts, now())} end
if lease[1] == holder then
  redis.call('PEXPIRE', lease_key, lasts)
  outlive(lasts)
  ring(lasts, false)
  return {'granted', lease[2]}
end

local ends = redis.call('PTTL', lease_key)
if channel == '' then return {'held', lease[1], ends} end
-- It may stand there by another copy, which was sent before or after it found out that it is not counted.
local bare = string.match(channel, '^%??(.+)$')
local rank = redis.call('LPOS', queue_key, ttl .. ' ' .. bare .. ' ' .. holder)
  or redis.call('LPOS', queue_key, ttl .. ' ?' .. bare .. ' ' .. holder)
  or redis.call('RPUSH', queue_key, ttl .. ' ' .. channel .. ' ' .. holder) - 1
redis.call('PEXPIRE', queue_key, math.max(ends, 0) + QUEUE_MS)
return {'queued', lease[1], ends, rank}
