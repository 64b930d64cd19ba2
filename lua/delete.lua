-- delete: drop a run, damaged or not, if its head is still the one that the client read.
--
-- KEYS[1] head   hash      KEYS[2] log    stream      KEYS[3] etags  list
-- KEYS[4] marks  hash      KEYS[5] lease  hash
-- ARGV[1] expected   the head's etag as the client read it; "" = it had none
-- ARGV[2] ticket     16 bytes that name this delete
-- ARGV[3] resend     "1" = an earlier copy of this request may have been applied, or may still arrive
-- ARGV[4] fence      of the lease that the delete carries; "" = no lease
-- ARGV[5] holder     of that lease
-- ARGV[6] force      "1" = fence the holder of a lease instead of obeying the lease
--
-- Returns {"deleted"} | {"absent"} | {"cancelled"} | {"locked", holder, pttl} | {"lost", fence}
--       | {"conflict", version, etag} | {"gone", version, etag} | {"failed", error}
--
-- Three things stay for a while. The etags: a resent delete must not reach the successor. A head with fence and
-- holder: fences must still rise. A mark that names the run's first save: no copy of it may bring the run back.

local head_key, log_key, etags_key, marks_key, lease_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local expected, ticket, resend, fence, holder, force =
  ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4], ARGV[5], ARGV[6] == '1'

-- include common
local ETAGS = 256

local function kind(key) return redis.call('TYPE', key).ok end

-- A key of a foreign type is damage too, and this script clears damage.
local healthy = kind(head_key) == 'hash' -- guard: foreign-head
local head = healthy and redis.call('HMGET', head_key, 'version', 'etag', 'fence', 'holder', 'origin', 'left') or {}
local head_etag, head_fence = head[2], tonumber(head[3] or '0') or 0 -- guard: head-fence-number
local head_holder, origin = head[4] or '', head[5]
local listed = kind(etags_key) == 'list' -- guard: foreign-etags
local function foreign(key, own) return kind(key) ~= 'none' and kind(key) ~= own end
local exists = head[1] or head[2] -- guard: head-exists
  or kind(log_key) ~= 'none' -- guard: log-exists
  or foreign(head_key, 'hash') -- guard: foreign-head-exists
  or foreign(etags_key, 'list') -- guard: foreign-etags-exist
  or foreign(marks_key, 'hash') -- guard: foreign-marks-exist
  or foreign(lease_key, 'hash') -- guard: foreign-lease-exists
local parent = expected ~= '' and expected

-- include touch
-- include outcome
-- include marking

-- Marks the refusal, unless every later copy is sure to be refused as well: see save.lua. A delete that expects no
-- etag may meet a damaged run again.
local function mark(reply)
  if resend or not parent or reply[1] == 'locked' then remember(ticket, NEVER) end -- guard: refusal-marked
  return reply
end

-- A refusal says that nothing was deleted. This request may be a copy of an applied delete, so find out first.
local function refuse(reply)
  if applied(ticket, parent) then return confirm({'deleted'}) end -- guard: applied-before-refusal
  if resend and not known(parent) then -- guard: unknown-is-gone
    return mark({'gone', head[1] or '', head_etag or ''}) -- guard: gone-marked
  end
  return mark(reply)
end

-- If the run is absent, first sends ask too: a late copy must not fence a holder that was granted the run since.
if not exists and applied(ticket, parent) then return confirm({'deleted'}) end -- guard: applied-while-absent

-- A mark says that this delete was refused or resolved before, so this is a late copy. If a reason to refuse still
-- holds, that reason is the reply: the sender may see any copy's reply first.
-- guard: mark-read
local marked = kind(marks_key) == 'hash' and redis.call('HEXISTS', marks_key, ticket) == 1

local carries = holder ~= ''
-- guard: foreign-lease
local lease = kind(lease_key) == 'hash' and redis.call('HMGET', lease_key, 'holder', 'fence') or {}
local time = redis.call('TIME') -- guard: clock-first
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Read before the first write. The fence of the holder who deletes stays for as long as its lease.
-- guard: fence-outlives-lease
local remembered = math.max(MEMORY_MS, carries and lease[1] and redis.call('PTTL', lease_key) or 0)
local must_fence = force and (lease[1] or head_fence > 0) -- guard: must-fence

-- Leaves a head that only remembers a fence. With force, the fence is above that of every lease granted so far.
local function leave_fence()
  if must_fence then -- guard: fence-raised
    head_fence, head_holder = math.max(head_fence + 1, (tonumber(lease[2]) or 0) + 1, now), '' -- guard: fence-above-all
  end
  if head_fence > 0 then -- guard: fence-to-remember
    -- guard: fence-written
    redis.call('HSET', head_key, 'fence', text(head_fence), 'holder', head_holder, 'left', head[6] or '')
    redis.call('PEXPIRE', head_key, remembered) -- guard: fence-expires
  end
  if must_fence then redis.call('DEL', lease_key) end -- guard: lease-ended
end

if not exists then -- guard: absent
  if marked then return {'cancelled'} end -- guard: absent-marked
  if force then -- guard: absent-forced
    -- The first write is one that full memory cannot refuse. It also proves that the list can be given an expiry.
    redis.call('PEXPIRE', etags_key, MEMORY_MS) -- guard: absent-expiry-first
    -- Before the ticket: a copy that finds the ticket is answered "deleted", so the holder must have been fenced.
    leave_fence() -- guard: absent-fenced
    redis.call('RPUSH', etags_key, ticket) -- guard: absent-listed
    redis.call('PEXPIRE', etags_key, MEMORY_MS) -- guard: absent-expires
    redis.call('LTRIM', etags_key, -ETAGS, -1) -- guard: absent-capped
  end
  -- The client sent a resend for a run that existed. The run is gone, so the delete is done.
  -- guard: absent-resend
  if resend then
    return
      touch(etags_key) or -- guard: absent-touch
      {'deleted'}
  end
  return {'absent'}
end

if not force then -- guard: force
  if lease[1] and not (carries and lease[1] == holder and lease[2] == fence) then -- guard: live-lease
    if carries then return refuse({'lost', lease[2]}) end -- guard: live-lease-lost
    return refuse({'locked', lease[1], redis.call('PTTL', lease_key)}) -- guard: live-lease-locked
  end
  if carries then -- guard: head-fence-checked
    local own_fence = tonumber(fence)
    if own_fence < head_fence or (own_fence == head_fence and head[4] and head[4] ~= holder) then -- guard: head-fence
      return refuse({'lost', text(head_fence)}) -- guard: head-fence-lost
    end
  end
end
if (head_etag or '') ~= expected then return refuse({'conflict', head[1] or '', head_etag or ''}) end -- guard: compare
if marked then return refuse({'cancelled'}) end -- guard: marked

-- Scripts do not roll back, so every write that may fail comes before DEL. If one fails, the ticket is removed again.
local failed
local function write(...)
  if failed then return end -- guard: stop-after-failure
  local reply = redis.pcall(...) -- guard: write-errors
  if type(reply) == 'table' and reply.err then failed = reply.err end -- guard: write-failure
  return not failed
end
if not listed then write('DEL', etags_key) end -- guard: foreign-etags-cleared
if foreign(marks_key, 'hash') then write('DEL', marks_key) end -- guard: foreign-marks-cleared
if foreign(lease_key, 'hash') then write('DEL', lease_key) end -- guard: foreign-lease-cleared
-- The first write is one that full memory cannot refuse: deleting is how memory is freed.
write('LREM', etags_key, 1, ticket) -- guard: memory-first
local pushed = write('RPUSH', etags_key, ticket) -- guard: ticket-listed
write('LTRIM', etags_key, -ETAGS, -1) -- guard: etags-capped
-- Before any mark is written, prove that it can be removed again and given an expiry.
write('HDEL', marks_key, ticket) -- guard: mark-removal-first
write('PEXPIRE', marks_key, MEMORY_MS) -- guard: mark-expiry-first
-- A run that cannot name its first save leaves the mark "?". A delete that expects no etag also marks itself: no list
-- shows how far back it would have to reach.
write('HSET', marks_key, origin or LOST, APPLIED .. ' ' .. time[1]) -- guard: origin-marked
local own = not parent and write('HSET', marks_key, ticket, APPLIED .. ' ' .. time[1]) -- guard: delete-of-damage-marked
write('PEXPIRE', marks_key, MEMORY_MS) -- guard: marks-expire
write('DEL', head_key, log_key) -- guard: deleted
if failed then -- no guard: opens the undo, each line of which is a guard
  if pushed then redis.pcall('LREM', etags_key, -1, ticket) end -- guard: ticket-removed
  if own then redis.pcall('HDEL', marks_key, ticket) end -- guard: mark-removed
  return {'failed', failed} -- guard: failed
end

redis.call('PEXPIRE', etags_key, MEMORY_MS) -- guard: etags-expire
if carries and not force then head_fence, head_holder = tonumber(fence), holder end -- guard: own-fence
leave_fence() -- guard: fenced
return {'deleted'}
