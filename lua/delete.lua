-- delete: drop a run if its head is still the one that was read. Damaged runs too.
--
-- KEYS[1] head   hash      KEYS[2] log    stream      KEYS[3] etags  list
-- KEYS[4] marks  hash      KEYS[5] lease  hash
-- ARGV[1] expected   the head's etag as it was read; "" = it had none
-- ARGV[2] ticket     16 bytes that name this delete
-- ARGV[3] resend     "1" = an earlier copy of this request may have been applied, or may still arrive
-- ARGV[4] fence      of the lease that the delete carries; "" = no lease
-- ARGV[5] holder     of that lease
-- ARGV[6] force      "1" = whoever holds a lease is fenced instead of obeyed
--
-- Returns {"deleted"} | {"absent"} | {"cancelled"} | {"locked", holder, pttl} | {"lost", fence}
--       | {"conflict", version, etag} | {"gone", version, etag} | {"failed", error}
--
-- The etags and a head with fence and holder stay for a while, so that a resent delete cannot reach the successor, and
-- fences still rise. So does a mark that names the run's first save, which must not bring it back.

local head_key, log_key, etags_key, marks_key, lease_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local expected, ticket, resend, fence, holder, force =
  ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4], ARGV[5], ARGV[6] == '1'

-- include common
local ETAGS = 256

local function kind(key) return redis.call('TYPE', key).ok end

-- Keys of a foreign type are damage too, and this is the command that clears it.
local healthy = kind(head_key) == 'hash'
local head = healthy and redis.call('HMGET', head_key, 'version', 'etag', 'fence', 'holder', 'origin', 'left') or {}
local head_etag, head_fence, head_holder, origin = head[2], tonumber(head[3] or '0') or 0, head[4] or '', head[5]
local listed = kind(etags_key) == 'list'
local function foreign(key, own) return kind(key) ~= 'none' and kind(key) ~= own end
local there = head[1] or head[2] or kind(log_key) ~= 'none' or foreign(head_key, 'hash')
  or foreign(etags_key, 'list') or foreign(marks_key, 'hash') or foreign(lease_key, 'hash')
local parent = expected ~= '' and expected

-- include touch
-- include outcome
-- include marking

-- A copy that is still on its way must find the mark of the refusal, unless it is certain to be refused as well: see
-- save.lua. What expects no etag may meet a damaged run again.
local function mark(reply)
  if resend or not parent or reply[1] == 'locked' then remember(ticket, NEVER) end
  return reply
end

-- Before every refusal, since each says that nothing was deleted: this may be a copy of a delete that was applied.
local function refuse(reply)
  if applied(ticket, parent) then return confirm({'deleted'}) end
  if resend and not known(parent) then return mark({'gone', head[1] or '', head_etag or ''}) end
  return mark(reply)
end

-- Also a first send looks where the run is absent: a late copy must not fence whoever was granted the run since.
if not there and applied(ticket, parent) then return confirm({'deleted'}) end

-- Refused or resolved before: this may be the late copy that the mark was left for. A reason to refuse it that still holds
-- is told instead, since its sender may hear any copy's answer.
local marked = kind(marks_key) == 'hash' and redis.call('HEXISTS', marks_key, ticket) == 1

-- Leaves a head that only remembers a fence. By force it is above every lease that was granted.
local carries = holder ~= ''
local lease = kind(lease_key) == 'hash' and redis.call('HMGET', lease_key, 'holder', 'fence') or {}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Read before the first write. Its holder's fence is remembered for as long as the lease lives.
local remembered = math.max(MEMORY_MS, carries and lease[1] and redis.call('PTTL', lease_key) or 0)
local fences = force and (lease[1] or head_fence > 0)
local function fence_off()
  if fences then head_fence, head_holder = math.max(head_fence + 1, (tonumber(lease[2]) or 0) + 1, now), '' end
  if head_fence > 0 then
    redis.call('HSET', head_key, 'fence', text(head_fence), 'holder', head_holder, 'left', head[6] or '')
    redis.call('PEXPIRE', head_key, remembered)
  end
  if fences then redis.call('DEL', lease_key) end
end

if not there then
  if marked then return {'cancelled'} end
  if force then
    -- The first write is one that full memory cannot refuse. It proves that what is left behind may expire.
    redis.call('PEXPIRE', etags_key, MEMORY_MS)
    -- Before the ticket: whoever finds that is told that this is done, so the holder must have been fenced.
    fence_off()
    redis.call('RPUSH', etags_key, ticket)
    redis.call('PEXPIRE', etags_key, MEMORY_MS)
    redis.call('LTRIM', etags_key, -ETAGS, -1)
  end
  -- A resend was sent for a run that was there: if it is gone, this is done.
  if resend then return touch(etags_key) or {'deleted'} end
  return {'absent'}
end

if not force then
  if lease[1] and not (carries and lease[1] == holder and lease[2] == fence) then
    if carries then return refuse({'lost', lease[2]}) end
    return refuse({'locked', lease[1], redis.call('PTTL', lease_key)})
  end
  if carries then
    local mine = tonumber(fence)
    if mine < head_fence or (mine == head_fence and head[4] and head[4] ~= holder) then
      return refuse({'lost', text(head_fence)})
    end
  end
end
if (head_etag or '') ~= expected then return refuse({'conflict', head[1] or '', head_etag or ''}) end
if marked then return refuse({'cancelled'}) end

-- Scripts do not roll back, so whatever may fail comes before DEL, and the ticket is taken out if it does.
local failed
local function write(...)
  if failed then return end
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then failed = reply.err end
  return not failed
end
if not listed then write('DEL', etags_key) end
if foreign(marks_key, 'hash') then write('DEL', marks_key) end
if foreign(lease_key, 'hash') then write('DEL', lease_key) end
-- Also the script's first write, and one that full memory cannot refuse: deleting is how memory is freed.
write('LREM', etags_key, 1, ticket)
local pushed = write('RPUSH', etags_key, ticket)
write('LTRIM', etags_key, -ETAGS, -1)
-- That the marks can be taken off again, and will expire, is proven before there are any.
write('HDEL', marks_key, ticket)
write('PEXPIRE', marks_key, MEMORY_MS)
-- A run that cannot name its first save leaves a mark for whichever that was. A delete that expects no etag is marked
-- itself: no list tells how far back it must reach.
write('HSET', marks_key, origin or LOST, APPLIED .. ' ' .. time[1])
local own = not parent and write('HSET', marks_key, ticket, APPLIED .. ' ' .. time[1])
write('PEXPIRE', marks_key, MEMORY_MS)
write('DEL', head_key, log_key)
if failed then
  if pushed then redis.pcall('LREM', etags_key, -1, ticket) end
  if own then redis.pcall('HDEL', marks_key, ticket) end
  return {'failed', failed}
end

redis.call('PEXPIRE', etags_key, MEMORY_MS)
if carries and not force then head_fence, head_holder = tonumber(fence), holder end
fence_off()
return {'deleted'}
