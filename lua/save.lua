-- save: append one entry to a run's log if the run's head is still the parent that the entry names.
--
-- KEYS[1] head  hash  the run's newest revision; without an etag it is an absent run that remembers a fence
--
-- The run's other keys are named after it, for declared they would be a tenth of what a turn sends:
--   log    stream   one entry a version, id 0-<version>
--   etags  list     the last 256 applied etags and delete tickets
--   marks  hash     etags and tickets that must never be applied
--   lease  hash     holder, fence, since; expires with the lease
--
-- ARGV[1] version   decimal, the parent's plus one
-- ARGV[2] header    92 bytes: parent etag, etag, op, then big-endian cut i, cut j, length as u32, and
--                   size, checkpoint, logged, fence as u64; a parent of zeros: the run is absent
-- ARGV[3] body      CBOR sequence
-- ARGV[4] check     8 bytes over the new head, for its readers
-- ARGV[5] meta      CBOR map; "" = unchanged
-- ARGV[6] resend    "1" = an earlier copy of this request may have been applied, or may still arrive
-- ARGV[7] holder    who holds the lease that this save carries; "" = no lease
-- ARGV[8] ttl       milliseconds that the run lives from now; "" = leave its lifetime alone
-- ARGV[9] keep      past revisions that stay reachable
--
-- Returns {"saved", saved_ms, "" = not the head any more} | {"cancelled"} | {"locked", holder, pttl} | {"lost", fence}
--       | {"conflict", version, etag} | {"gone", version, etag} | {"corrupt", version, reason} | {"format", found}
--       | {"failed", error}: a command of the script failed, and what was written before it was undone
-- A version and etag of "" mean that the run is absent.

local head_key = KEYS[1]
local version, header, body, check, meta = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local resend, holder, ttl, keep = ARGV[6] == '1', ARGV[7], ARGV[8], tonumber(ARGV[9])
local run = string.sub(head_key, 1, -5)
local log_key, etags_key, marks_key, lease_key = run .. 'log', run .. 'etags', run .. 'marks', run .. 'lease'
local parent, etag, _, _, _, length, size, checkpoint, logged, fence =
  struct.unpack('>c16c16c16I4I4I4I8I8I8I8', header)

-- include common
local ABSENT = string.rep('\0', 16)
local ETAGS = 256
local SPANS = 32

-- Before all else, and by one command: while a cluster moves the slot, a key that is not declared and not here would
-- look absent, but a command of several keys fails. Log and etags count for two at most, a mark or a lease for three.
local others = redis.call('EXISTS',
  log_key, etags_key, marks_key, marks_key, marks_key, lease_key, lease_key, lease_key)
local head = redis.call('HMGET', head_key,
  'format', 'version', 'etag', 'first', 'fence', 'holder', 'spans', 'checkpoint', 'origin')
local at, head_etag, first, head_fence, head_holder = head[2], head[3], head[4], tonumber(head[5] or '0'), head[6]
local present = head_etag and true or false
local current = present and head_etag or ABSENT
local entries = redis.call('XLEN', log_key)

-- A copy that is still on its way must find the mark of the refusal, unless it is certain to be refused as well: a head
-- never comes back to a parent that it has left, and its fence never falls. On another server, after a failover, it
-- may; of copies that may arrive there a resend knows.
local function mark(reply)
-- include marking
  if resend or parent == ABSENT or reply[1] == 'locked' then remember(etag, NEVER) end
  return reply
end

-- What becomes of a request that may be a copy of an applied one, whatever has happened to the run since: the answer,
-- or nil if it was not applied. Asked before every refusal but that of damage, and of a first save before it is
-- applied. Any other save that is applied costs nothing of this: its parent is still the head.
local function outcome()
  local origin, listed = head[9], true
-- include touch
-- include outcome
  local onto = parent ~= ABSENT and parent
  if applied(etag, onto) then
    return confirm({'saved', head_etag == etag and redis.call('HMGET', head_key, 'saved')[1] or ''})
  end
  -- Each refusal says that nothing was written, which must be known of the earlier copies of a resend.
  if resend and not known(onto) then return mark({'gone', present and at or '', head_etag or ''}) end
end

local function refuse(reply) return outcome() or mark(reply) end

-- 0. A damaged run takes no saves: acknowledging one would hide the damage.
if present and head[1] ~= '1' then return mark({'format', head[1] or ''}) end
if not present and entries > 0 then return mark({'corrupt', '', 'there is a log, but no head'}) end
if present then
  local newest, oldest = tonumber(at or ''), tonumber(first or '')
  if not newest or not oldest or newest - oldest + 1 ~= entries then
    return mark({'corrupt', at or '', 'the log holds ' .. entries .. ' entries, which is not what the head says'})
  end
end

-- 1. A run that was deleted is not brought back by a copy of its first save.
if not present then
  local answer = outcome()
  if answer then return answer end
end

-- Most saves meet neither a mark nor a lease.
local plain = others < 3

-- 2. The lease. Fences are compared with their holder: two grants can fall in one millisecond.
local carries = holder ~= ''
local lease = plain and {} or redis.call('HMGET', lease_key, 'holder', 'fence')
if lease[1] and not (carries and lease[1] == holder and tonumber(lease[2]) == fence) then
  if carries then return refuse({'lost', lease[2]}) end
  return refuse({'locked', lease[1], redis.call('PTTL', lease_key)})
end
if carries and (fence < head_fence or (fence == head_fence and head_holder and head_holder ~= holder)) then
  return refuse({'lost', text(head_fence)})
end

-- 3. Compare.
if current ~= parent then return refuse({'conflict', present and at or '', head_etag or ''}) end

-- 4. Refused or resolved before, and nothing else would refuse it now: this is the late copy that the mark was left for.
-- One that is refused again is told the reason, which its sender may hear first by this copy.
if not plain and redis.call('HEXISTS', marks_key, etag) == 1 then return {'cancelled'} end

-- 5. Set. Scripts do not roll back, so whatever may fail comes before XADD, and is undone if it does.
local undo = {}
local failed
local function write(revert, ...)
  if failed then return end
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    failed = reply.err
    for step = #undo, 1, -1 do redis.pcall(unpack(undo[step])) end
  elseif revert then
    undo[#undo + 1] = revert
  end
end

-- All that is read is read before the first write: what raises in between would leave half a save.
local time = redis.call('TIME')
local now = time[1] .. string.sub('00000' .. time[2], -6, -4)
local head_left, etags_left
local lasts = tonumber(ttl)
if lasts then
  head_left, etags_left = redis.call('PTTL', head_key), redis.call('PTTL', etags_key)
  -- A run does not expire under its holder.
  if carries then lasts = math.max(lasts, redis.call('PTTL', lease_key)) end
end

-- Where a reader must start: "version:checkpoint" for each retained version that changed it.
local moves = not present or checkpoint ~= tonumber(head[8])
local oldest = not moves and string.match(head[7] or '', '^%d+:(%d+)$')
local spans
if not oldest or oldest ~= first then
  spans = {}
  for span in string.gmatch(present and head[7] or '', '%d+:%d+') do spans[#spans + 1] = span end
  if moves then spans[#spans + 1] = version .. ':' .. text(checkpoint) end
  while #spans > 1 and tonumber(string.match(spans[2], '^%d+')) <= tonumber(version) - keep do
    table.remove(spans, 1)
  end
  -- Forgetting a span in the middle only keeps more than was asked for.
  if #spans > SPANS then table.remove(spans, #spans - 1) end
  oldest = #spans > 0 and string.match(spans[1], '%d+$') or first
  if present and tonumber(oldest) < tonumber(first) then oldest = first end
end
-- Trimming by a damaged span would throw away what readers start from.
if tonumber(oldest) > checkpoint then return mark({'corrupt', at, 'the spans lead past the checkpoint'}) end

-- Of a script's writes only the first can fail for want of memory, so it is one that leaves no trace.
write(not present and {'HDEL', head_key, 'format'}, 'HSET', head_key, 'format', '1')
-- To make room proves that the next write can be undone: an etag in the list without its entry would turn a lost save
-- into an acknowledged one.
write(nil, 'LTRIM', etags_key, 1 - ETAGS, -1)
write({'LTRIM', etags_key, 0, -2}, 'RPUSH', etags_key, etag)
local deadline = lasts and text(now + lasts)
if deadline then
  -- One deadline for all: a run that expires key by key would look damaged.
  local function expire(key, left)
    if left < 0 then write(nil, 'PERSIST', key) end
    write(left < 0 and {'PERSIST', key} or {'PEXPIREAT', key, text(now + left)}, 'PEXPIREAT', key, deadline)
  end
  -- What is remembered of a deleted run is not forgotten sooner because its successor is short-lived.
  if etags_left <= lasts or etags_left > MEMORY_MS then expire(etags_key, etags_left) end
  expire(head_key, head_left)
elseif not present then
  -- What a deleted run left behind expires; its successor does not.
  write({'PEXPIRE', etags_key, MEMORY_MS}, 'PERSIST', etags_key)
  write({'PEXPIRE', head_key, MEMORY_MS}, 'PERSIST', head_key)
end
if present and oldest ~= first then write(nil, 'XTRIM', log_key, 'MAXLEN', entries) end
write(nil, 'XADD', log_key, '0-' .. version, 'h', header, 't', now, 'b', body)
if failed then return {'failed', failed} end

-- From here on nothing can fail: every command has just been allowed on the same key.
redis.call('HSET', head_key, 'version', version, 'etag', etag, 'length', text(length), 'size', text(size),
  'logged', text(logged), 'check', check, 'saved', now)
if not present then redis.call('HSET', head_key, 'created', now, 'origin', etag) end
if spans then
  redis.call('HSET', head_key, 'checkpoint', text(checkpoint), 'first', oldest, 'spans', table.concat(spans, ' '))
end
if meta ~= '' then redis.call('HSET', head_key, 'meta', meta) end
if carries and (fence ~= head_fence or head_holder ~= holder) then
  redis.call('HSET', head_key, 'fence', text(fence), 'holder', holder)
end
if deadline then
  -- The head again: a deadline that has passed meanwhile took the key away, and HSET brought it back.
  redis.call('PEXPIREAT', log_key, deadline)
  redis.call('PEXPIREAT', head_key, deadline)
end
if present and oldest ~= first then redis.call('XTRIM', log_key, 'MINID', '0-' .. oldest) end
return {'saved', now}
