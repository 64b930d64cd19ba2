-- save: append one entry to a run's log if the run's head is still the parent that the entry names.
--
-- KEYS[1] head  hash  the run's newest revision; a head without an etag is an absent run that remembers a fence
--
-- The script derives the run's other keys. Declared, their names would be a tenth of the bytes that a turn sends.
--   log    stream   one entry a version, id 0-<version>
--   etags  list     the last 256 applied etags and delete tickets
--   marks  hash     etags and tickets that must never be applied
--   lease  hash     holder, fence, since; expires with the lease
--
-- ARGV[1] version   decimal, the parent's plus one
-- ARGV[2] header    92 bytes: parent etag, etag, op, then big-endian cut i, cut j, length as u32, and
--                   size, checkpoint, logged, fence as u64; a parent of zeros: the run must be absent
-- ARGV[3] body      CBOR sequence
-- ARGV[4] check     8 bytes over the new head, for its readers
-- ARGV[5] meta      CBOR map; "" = unchanged
-- ARGV[6] resend    "1" = an earlier copy of this request may have been applied, or may still arrive
-- ARGV[7] holder    who holds the lease that this save carries; "" = no lease
-- ARGV[8] ttl       milliseconds that the run lives from now; "" = leave its lifetime alone
-- ARGV[9] keep      past revisions that stay reachable
--
-- Returns {"saved", saved_ms, "" = no longer the head} | {"cancelled"} | {"locked", holder, pttl} | {"lost", fence}
--       | {"conflict", version, etag} | {"gone", version, etag} | {"corrupt", version, reason} | {"format", found}
--       | {"failed", error}: a command of the script failed, and the script undid its earlier writes
-- An empty version and etag mean that the run is absent.

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

-- One EXISTS over all undeclared keys, before any other command. During a slot migration a single-key command would
-- report a migrated key as absent; a multi-key command fails instead.
-- Log and etags add 2 to the count at most. Marks or a lease add 3 each, so a count of 3 or more shows one of them.
-- guard: migrating-slot
local others = redis.call('EXISTS',
  log_key, etags_key,
  marks_key, marks_key, marks_key, -- guard: marks-counted
  lease_key, lease_key, lease_key) -- guard: lease-counted
local head = redis.call('HMGET', head_key,
  'format', 'version', 'etag', 'first', 'fence', 'holder', 'spans', 'checkpoint', 'origin')
local at, head_etag, first, head_fence, head_holder = head[2], head[3], head[4], tonumber(head[5] or '0'), head[6]
local present = head_etag and true or false
local current = present and head_etag or ABSENT
local entries = redis.call('XLEN', log_key)

-- Marks the refusal, unless every later copy is sure to be refused as well. A head never returns to a parent that it
-- has left, and its fence never falls. After a failover both can happen on the new primary; the client knows of the
-- copies that may arrive there, and sends its request as a resend.
local function mark(reply)
-- include marking
  if resend or parent == ABSENT or reply[1] == 'locked' then remember(etag, NEVER) end -- guard: refusal-marked
  return reply
end

-- Returns the reply for a copy of an applied save, or for a resend whose outcome is not known any more; otherwise nil.
-- Step 1 calls it whenever the run is absent. Steps 2 and 3 call it before every refusal. The other replies do without:
-- damage precedes everything else, and from step 4 on the parent is still the head, so no copy was applied. (If the
-- parent is zeros, step 1 has called it.)
local function outcome()
  local origin, listed = head[9], true
-- include touch
-- include outcome
  local onto = parent ~= ABSENT and parent -- guard: parent-of-zeros
  if applied(etag, onto) then -- guard: applied
    return confirm({'saved',
      head_etag == etag and redis.call('HMGET', head_key, 'saved')[1] or ''}) -- guard: saved-time
  end
  -- A refusal says that nothing was written. For a resend that must hold for its earlier copies too.
  if resend and not known(onto) then -- guard: unknown-is-gone
    return mark({'gone', present and at or '', head_etag or ''}) -- guard: gone-marked
  end
end

local function refuse(reply) return outcome() or mark(reply) end -- guard: applied-before-refusal

-- 0. Refuse a damaged run. Acknowledging a save would hide the damage.
if present and head[1] ~= '1' then return mark({'format', head[1] or ''}) end -- guard: format
if not present and entries > 0 then return mark({'corrupt', '', 'there is a log, but no head'}) end -- guard: no-head
if present then -- no guard: opens the check of the count, which fails for an absent run
  local newest, oldest = tonumber(at or ''), tonumber(first or '')
  if not newest or not oldest or newest - oldest + 1 ~= entries then -- guard: entry-count
    return mark({'corrupt', at or '', -- guard: entry-count-marked
      'the log holds ' .. entries .. ' entries, which is not what the head says'})
  end
end

-- 1. If the run is absent, find out whether this is a copy of its applied first save. A copy must not bring a deleted
-- run back.
if not present then -- guard: first-save-checked
  local answer = outcome()
  if answer then return answer end -- guard: first-save-answered
end

-- Most saves meet neither a mark nor a lease.
local plain = others < 3 -- guard: plain-run

-- 2. Check the lease. Fences are compared together with their holders: two grants can fall in one millisecond.
local carries = holder ~= ''
local lease = plain and {} or redis.call('HMGET', lease_key, 'holder', 'fence')
if lease[1] and not (carries and lease[1] == holder and tonumber(lease[2]) == fence) then -- guard: live-lease
  if carries then return refuse({'lost', lease[2]}) end -- guard: live-lease-lost
  return refuse({'locked', lease[1], redis.call('PTTL', lease_key)}) -- guard: live-lease-locked
end
-- guard: head-fence
if carries and (fence < head_fence or (fence == head_fence and head_holder and head_holder ~= holder)) then
  return refuse({'lost', text(head_fence)}) -- guard: head-fence-lost
end

-- 3. Compare the etags.
-- guard: compare
if current ~= parent then
  return refuse({'conflict', present and at or '', head_etag or ''}) -- guard: conflict
end

-- 4. Obey a mark: this save was refused or resolved before, and a late copy of it must not be applied.
-- The checks above come first. The sender may see any copy's reply first, so a reason that still holds is the reply.
-- guard: marked
if not plain and redis.call('HEXISTS', marks_key, etag) == 1 then return {'cancelled'} end

-- 5. Write. Scripts do not roll back, so every write that may fail comes before XADD and has an undo.
local undo = {}
local failed
local function write(revert, ...)
  if failed then return end -- guard: stop-after-failure
  local reply = redis.pcall(...) -- guard: write-errors
  if type(reply) == 'table' and reply.err then -- guard: write-failure
    failed = reply.err
    for step = #undo, 1, -1 do redis.pcall(unpack(undo[step])) end -- guard: undo
  elseif revert then -- guard: undo-recorded
    undo[#undo + 1] = revert
  end
end

-- Read everything before the first write. A read that raises between two writes would leave half a save.
local time = redis.call('TIME') -- guard: clock-first
local now = time[1] .. string.sub('00000' .. time[2], -6, -4) -- guard: padded-milliseconds
local head_left, etags_left
local lasts = tonumber(ttl) -- guard: no-lifetime
if lasts then -- guard: lifetimes-first
  head_left, etags_left = redis.call('PTTL', head_key), redis.call('PTTL', etags_key) -- guard: lifetimes-read
  -- A run does not expire under its holder.
  if carries then lasts = math.max(lasts, redis.call('PTTL', lease_key)) end -- guard: outlive-lease
end

-- A span is "version:checkpoint": from that version on, readers start at that checkpoint.
-- The head keeps a span for each retained version that moved the checkpoint.
local moves = not present or checkpoint ~= tonumber(head[8]) -- guard: checkpoint-moves
local oldest = not moves and string.match(head[7] or '', '^%d+:(%d+)$') -- guard: single-span
local spans
if not oldest or oldest ~= first then -- guard: spans-unchanged
  spans = {}
  for span in string.gmatch(present and head[7] or '', '%d+:%d+') do spans[#spans + 1] = span end
  if moves then spans[#spans + 1] = version .. ':' .. text(checkpoint) end -- guard: span-added
  while #spans > 1 and tonumber(string.match(spans[2], '^%d+')) <= tonumber(version) - keep do -- guard: old-spans
    table.remove(spans, 1)
  end
  -- A missing span in the middle only keeps more entries than was asked for.
  if #spans > SPANS then table.remove(spans, #spans - 1) end -- guard: spans-capped
  oldest = #spans > 0 and string.match(spans[1], '%d+$') or first
  if present and tonumber(oldest) < tonumber(first) then oldest = first end -- guard: first-rises
end
-- Trimming by a damaged span would drop the entries that readers start from.
-- guard: span-past-checkpoint
if tonumber(oldest) > checkpoint then return mark({'corrupt', at, 'the spans lead past the checkpoint'}) end

-- Only a script's first write can fail for lack of memory. This one has no effect that a reader could see.
write(not present and {'HDEL', head_key, 'format'}, 'HSET', head_key, 'format', '1') -- guard: memory-first
-- Making room proves that the next write can be undone. An etag in the list without its entry would turn a lost save
-- into an acknowledged one.
write(nil, 'LTRIM', etags_key, 1 - ETAGS, -1) -- guard: room-for-etag
write({'LTRIM', etags_key, 0, -2}, 'RPUSH', etags_key, etag) -- guard: etag-listed
local deadline = lasts and text(now + lasts)
if deadline then -- no guard: chooses between the two ways to set lifetimes, which are guards themselves
  -- One deadline for all keys: a run that expires key by key would look damaged.
  local function expire(key, left)
    if left < 0 then write(nil, 'PERSIST', key) end -- guard: persist-first
    write(
      left < 0 and {'PERSIST', key} or -- guard: no-lifetime-undo
      {'PEXPIREAT', key, text(now + left)}, -- guard: lifetime-undo
      'PEXPIREAT', key, deadline)
  end
  -- The list may hold what is remembered of a deleted run. A short-lived successor must not shorten that.
  if etags_left <= lasts or etags_left > MEMORY_MS then expire(etags_key, etags_left) end -- guard: etags-lifetime
  expire(head_key, head_left) -- guard: head-lifetime-first
elseif not present then -- guard: successor-persists
  -- The remains of a deleted run expire; its successor does not.
  write({'PEXPIRE', etags_key, MEMORY_MS}, 'PERSIST', etags_key) -- guard: successor-etags
  write({'PEXPIRE', head_key, MEMORY_MS}, 'PERSIST', head_key) -- guard: successor-head
end
if present and oldest ~= first then write(nil, 'XTRIM', log_key, 'MAXLEN', entries) end -- guard: trim-first
write(nil, 'XADD', log_key, '0-' .. version, 'h', header, 't', now, 'b', body)
if failed then return {'failed', failed} end -- guard: failed

-- Nothing below can fail. HSET and PEXPIREAT of the head and XTRIM of the log, where they follow, have just succeeded
-- above. PEXPIREAT of the log is the same command for a key of any type, and XADD has just written to that key.
redis.call('HSET', head_key, 'version', version, 'etag', etag, 'length', text(length), 'size', text(size),
  'logged', text(logged), 'check', check, 'saved', now)
if not present then redis.call('HSET', head_key, 'created', now, 'origin', etag) end -- guard: birth
if spans then -- guard: spans-written
  redis.call('HSET', head_key,
    'checkpoint', text(checkpoint), 'first', oldest, -- guard: checkpoint-written
    'spans', table.concat(spans, ' '))
end
if meta ~= '' then redis.call('HSET', head_key, 'meta', meta) end -- guard: meta
if carries and (fence ~= head_fence or head_holder ~= holder) then -- guard: fence-raised
  redis.call('HSET', head_key, 'fence', text(fence), 'holder', holder) -- guard: fence-written
end
if deadline then -- guard: lifetimes-set
  -- The head again: if the deadline has passed meanwhile, the key expired and HSET brought it back.
  redis.call('PEXPIREAT', log_key, deadline) -- guard: log-lifetime
  redis.call('PEXPIREAT', head_key, deadline) -- guard: head-lifetime
end
if present and oldest ~= first then redis.call('XTRIM', log_key, 'MINID', '0-' .. oldest) end -- guard: trim
return {'saved', now}
