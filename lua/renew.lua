-- renew: prolong a lease that is still its holder's.
--
-- KEYS[1] head   hash     KEYS[2] log    stream   KEYS[3] etags  list
-- KEYS[4] lease  hash     KEYS[5] queue  list
-- ARGV[1] holder   who holds the lease
-- ARGV[2] fence    the lease's
-- ARGV[3] ttl      milliseconds that the lease lives from now
--
-- Returns {"renewed"} | {"lost", fence}

local head_key, log_key, etags_key, lease_key, queue_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local holder, fence, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])

local head = redis.call('HMGET', head_key, 'etag', 'fence', 'holder')
local present = head[1]

-- include common
-- include lasting

local lease = redis.call('HMGET', lease_key, 'holder', 'fence')
-- This read also checks the key's type: nothing may fail after the first write.
local waiting = redis.call('LLEN', queue_key) -- guard: queue-type
if lease[1] then -- guard: live-lease
  if lease[1] ~= holder or lease[2] ~= fence then return {'lost', lease[2]} end -- guard: own-lease
  -- The first write is one that full memory cannot refuse.
  redis.call('PEXPIRE', lease_key, ttl) -- guard: prolonged
else
  -- The lease lapsed. Make it anew if nobody was granted the run since and nobody waits for it.
  if head[2] ~= fence or head[3] ~= holder or waiting > 0 then -- guard: lapsed-lease
    return {'lost', head[2] or '0'}
  end
  redis.call('PEXPIRE', lease_key, ttl) -- guard: revival-expiry-first
  redis.call('HSET', lease_key, 'holder', holder, 'fence', fence, 'since', text(now())) -- guard: revived
  redis.call('PEXPIRE', lease_key, ttl) -- guard: revival-expires
end
outlive(ttl) -- guard: outlived
-- Tell all waiters: none of them has to ask while the lease is renewed.
ring(ttl, true) -- guard: announced
return {'renewed'}
