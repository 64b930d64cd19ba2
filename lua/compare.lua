-- compare: confirm that a run is at a revision, for a save that has nothing to write, and renew its lifetime.
--
-- KEYS[1] head   hash      KEYS[2] log    stream      KEYS[3] etags  list      KEYS[4] lease  hash
-- ARGV[1] etag     the etag that the run is expected to have
-- ARGV[2] fence    of the lease that the save carries; "" = no lease
-- ARGV[3] holder   of that lease
-- ARGV[4] ttl      milliseconds that the run lives from now; "" = leave its lifetime alone
--
-- Returns {"same", saved_ms} | {"locked", holder, pttl} | {"lost", fence} | {"conflict", version, etag}
--       | {"corrupt", version, reason} | {"format", found}
-- An empty version and etag mean that the run is absent. No refusal needs a mark: there is nothing to apply.

local head_key, log_key, etags_key, lease_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local etag, fence, holder, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

-- include common

local head = redis.call('HMGET', head_key, 'format', 'version', 'etag', 'first', 'fence', 'holder', 'saved')
local at, head_etag, head_fence, head_holder = head[2], head[3], tonumber(head[5] or '0'), head[6]
local entries = redis.call('XLEN', log_key)

if head_etag and head[1] ~= '1' then return {'format', head[1] or ''} end -- guard: format
if not head_etag and entries > 0 then return {'corrupt', '', 'there is a log, but no head'} end -- guard: no-head
if head_etag then -- no guard: opens the check of the count, which fails for an absent run
  local newest, oldest = tonumber(at or ''), tonumber(head[4] or '')
  if not newest or not oldest or newest - oldest + 1 ~= entries then -- guard: entry-count
    return {'corrupt', at or '', 'the log holds ' .. entries .. ' entries, which is not what the head says'}
  end
end

local lease = redis.call('HMGET', lease_key, 'holder', 'fence')
local carries = holder ~= ''
if lease[1] and not (carries and lease[1] == holder and lease[2] == fence) then -- guard: live-lease
  if carries then return {'lost', lease[2]} end -- guard: live-lease-lost
  return {'locked', lease[1], redis.call('PTTL', lease_key)}
end
if carries then -- guard: head-fence-checked
  local own_fence = tonumber(fence)
  -- guard: head-fence
  if own_fence < head_fence or (own_fence == head_fence and head_holder and head_holder ~= holder) then
    return {'lost', head[5]}
  end
end

-- guard: compare
if head_etag ~= etag then return {'conflict', head_etag and at or '', head_etag or ''} end
local lasts = tonumber(ttl)
if lasts then -- guard: lifetimes-set
  -- A run does not expire under its holder.
  if carries then lasts = math.max(lasts, redis.call('PTTL', lease_key)) end -- guard: outlive-lease
  local left = redis.call('PTTL', etags_key)
  local time = redis.call('TIME')
  local deadline = text(time[1] * 1000 + math.floor(time[2] / 1000) + lasts)
  redis.call('PEXPIREAT', head_key, deadline) -- guard: head-lifetime
  redis.call('PEXPIREAT', log_key, deadline) -- guard: log-lifetime
  -- The list may hold what is remembered of a deleted run. A short-lived successor must not shorten that.
  if left <= lasts or left > MEMORY_MS then redis.call('PEXPIREAT', etags_key, deadline) end -- guard: etags-lifetime
end
return {'same', head[7] or ''}
