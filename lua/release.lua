-- release: give up a lease, or a place in the queue, and hand the run to the next waiter. Or break a lease.
--
-- KEYS[1] head   hash     KEYS[2] log    stream   KEYS[3] etags  list
-- KEYS[4] marks  hash     KEYS[5] lease  hash     KEYS[6] queue  list
-- ARGV[1] holder   whose lease ends; "" = nobody's: if the run is free, the next waiter is served
-- ARGV[2] place    the holder's item in the queue, without the "?" that may be in it; "" = it never queued
-- ARGV[3] late     "1" = a copy of its acquire may still arrive
-- ARGV[4] force    "1" = the holder does not know: it is fenced
--
-- Returns {"released"} | {"lost", fence}: it was not the holder's any more, or a break finds nobody to fence

local head_key, log_key, etags_key, marks_key, lease_key, queue_key =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local holder, place, late, force = ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4] == '1'

local head = redis.call('HMGET', head_key, 'etag', 'fence', 'holder', 'left')
local present, head_fence, left = head[1], tonumber(head[2] or '0'), head[4]
local lease = redis.call('HMGET', lease_key, 'holder', 'fence')

-- include common
-- include lasting
-- include granting

-- Also the type check of these keys: past the first write nothing may fail any more.
redis.call('LLEN', queue_key)
if late then redis.call('HEXISTS', marks_key, holder) end

local held, named = lease[1] == holder, holder ~= '' and head[3] == holder
-- An earlier copy of this has done it.
local gave_up = has_left(left, '+', holder)
-- One of these is the first write: what full memory cannot refuse, so that it refuses nothing that comes after.
if held then
  redis.call('DEL', lease_key)
else
  redis.call('LREM', queue_key, 1, place)
  redis.call('LREM', queue_key, 1, (string.gsub(place, ' ', ' ?', 1)))
end
if force and (held or named) then
  head_fence = math.max(head_fence + 1, (tonumber(held and lease[2] or '0')) + 1, now())
  redis.call('HSET', head_key, 'fence', text(head_fence), 'holder', '', 'left', with(left, '!', holder))
  outlive(0)
elseif named then
  -- A late copy of a renewal, or of a save that carries this lease, must not find it in force.
  redis.call('HSET', head_key, 'holder', '', 'left', with(left, '+', holder))
elseif holder ~= '' and head[2] and not gave_up and not has_left(left, '!', holder) then
  redis.call('HSET', head_key, 'left', with(left, '!', holder))
end
if late then
-- include marking
  remember(holder, NEVER)
end
if held or not lease[1] then hand_off() end
if held or named or (gave_up and not force) then return {'released'} end
return {'lost', lease[2] or head[2] or '0'}
