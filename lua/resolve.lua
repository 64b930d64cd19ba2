-- resolve: settle a write whose outcome is open. Whatever is answered stays true.
--
-- KEYS[1] head   hash      KEYS[2] etags  list      KEYS[3] marks  hash
-- ARGV[1] ticket   a save's etag, or a delete's ticket
-- ARGV[2] parent   the etag that the write expected; "" = the run was to be absent
--
-- Returns {"applied", saved_ms, "" = not the head any more} | {"never"} | {"gone", version, etag}
-- After "never" and "gone" no copy of the write, wherever it is, will be applied.

local head_key, etags_key, marks_key = KEYS[1], KEYS[2], KEYS[3]
local ticket, parent = ARGV[1], ARGV[2]

-- include common
local ETAGS = 256

-- include touch

local head = redis.call('HMGET', head_key, 'version', 'etag', 'saved')
local listed = redis.call('LLEN', etags_key)
local newest = head[2] == ticket
if newest or redis.call('LPOS', etags_key, ticket) then
  -- Rather the list than the head, whose deadline must stay that of the log to the millisecond.
  return touch(listed > 0 and etags_key or head_key) or {'applied', newest and head[3] or ''}
end

redis.call('HSET', marks_key, ticket, '1')
redis.call('PEXPIRE', marks_key, MEMORY_MS)

-- The list tells only while it reaches back to what the write expected.
local reaches
if parent == '' then
  -- A list that was trimmed may be one short of full, after a failed save; one that is too short was evicted.
  reaches = listed < ETAGS - 1 and listed >= (tonumber(head[2] and (head[1] or '') or '0') or math.huge)
else
  reaches = redis.call('LPOS', etags_key, parent)
end
if reaches then return {'never'} end
return {'gone', head[1] or '', head[2] or ''}
