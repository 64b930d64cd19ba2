-- renew: prolong a lease that is still its holder's.
--
-- KEYS[1] head   hash     KEYS[2] log    stream   KEYS[3] etags  list
-- KEYS[4] lease  hash     KEYS[5] queue  list
-- ARGV[1] holder   who holds the lease
-- ARGV[2] fence    the lease's
-- ARGV[3] ttl      milliseconds that it lives from now
--
-- Returns {"renewed"} | {"lost", fence}

local head_key, log_key, etags_key, lease_key, queue_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local holder, fence, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])

local head = redis.call('HMGET', head_key, 'etag', 'fence', 'holder')
local present = head[1]

-- include common
-- include lasting

local lease = redis.call('HMGET', lease_key, 'holder', 'fence')
-- Also the type check of this key: past the first write nothing may fail any more.
local waiting = redis.call('LLEN', queue_key)
if lease[1] then
  if lease[1] ~= holder or lease[2] ~= fence then return {'lost', lease[2]} end
  -- The first write is one that full memory cannot refuse.
  redis.call('PEXPIRE', lease_key, ttl)
else
  -- It lapsed. Nobody has been granted the run since, and nobody waits for it: the work goes on.
  if head[2] ~= fence or head[3] ~= holder or waiting > 0 then
    return {'lost', head[2] or '0'}
  end
  redis.call('PEXPIRE', lease_key, ttl)
  redis.call('HSET', lease_key, 'holder', holder, 'fence', fence, 'since', text(now()))
  redis.call('PEXPIRE', lease_key, ttl)
end
outlive(ttl)
-- All who wait: nobody has to ask while the lease is renewed.
ring(ttl, true)
return {'renewed'}
