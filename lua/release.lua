-- release: give up a lease or a place in the queue, and hand the run to the next waiter. With force, break a lease.
--
-- KEYS[1] head   hash     KEYS[2] log    stream   KEYS[3] etags  list
-- KEYS[4] marks  hash     KEYS[5] lease  hash     KEYS[6] queue  list
-- ARGV[1] holder   whose lease ends; "" = nobody's: if the run is free, the next waiter is served
-- ARGV[2] place    the holder's item in the queue, without the "?" that may be in it; "" = it never queued
-- ARGV[3] late     "1" = a copy of its acquire may still arrive
-- ARGV[4] force    "1" = another process ends the lease, so its holder is fenced
--
-- Returns {"released"} | {"lost", fence}: the lease was not the holder's any more, or there was nobody to fence

local head_key, log_key, etags_key, marks_key, lease_key, queue_key =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local holder, place, late, force = ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4] == '1'

local head = redis.call('HMGET', head_key, 'etag', 'fence', 'holder', 'left')
local present, head_fence, left = head[1], tonumber(head[2] or '0'), head[4]
local lease = redis.call('HMGET', lease_key, 'holder', 'fence')

-- include common
-- include lasting
-- include granting

-- These two reads also check the keys' types: nothing may fail after the first write.
redis.call('LLEN', queue_key) -- guard: queue-type
if late then redis.call('HEXISTS', marks_key, holder) end -- guard: marks-type

local held = lease[1] == holder -- guard: held
local named = holder ~= '' and head[3] == holder -- guard: named
-- True if an earlier copy of this request has released the lease.
local gave_up = has_left(left, '+', holder)
-- The first write is one that full memory cannot refuse. Redis then accepts all later writes of the script.
if held then -- guard: lease-held
  redis.call('DEL', lease_key) -- guard: lease-ended
else
  redis.call('LREM', queue_key, 1, place) -- guard: place-left
  redis.call('LREM', queue_key, 1, (string.gsub(place, ' ', ' ?', 1))) -- guard: uncounted-place-left
end
if force and (held or named) then -- guard: broken
  head_fence = math.max(head_fence + 1, (tonumber(held and lease[2] or '0')) + 1, now()) -- guard: fence-above-all
  -- guard: fence-written
  redis.call('HSET', head_key, 'fence', text(head_fence), 'holder', '', 'left', add_left(left, '!', holder))
  outlive(0) -- guard: fence-expires
elseif named then -- guard: release-clears-head
  -- A late copy of a renewal, or of a save that carries this lease, must not find the lease in force.
  redis.call('HSET', head_key, 'holder', '', 'left', add_left(left, '+', holder)) -- guard: released
elseif holder ~= '' and head[2] and not gave_up and not has_left(left, '!', holder) then -- guard: left
  redis.call('HSET', head_key, 'left', add_left(left, '!', holder)) -- guard: left-written
end
if late then -- guard: late-copies
-- include marking
  remember(holder, NEVER) -- guard: marked
end
if held or not lease[1] then hand_off() end -- guard: next-served
if held or named or (gave_up and not force) then return {'released'} end -- guard: done
return {'lost', lease[2] or head[2] or '0'}
