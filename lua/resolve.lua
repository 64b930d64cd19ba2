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

local MEMORY_MS = 900000
local ETAGS = 256

-- A write that changes nothing: WAIT answers at once for a connection that has written nothing. It is not one that
-- full memory refuses, and PERSIST comes first to prove that the lifetime can be taken off again.
local function touch(key)
  local left = redis.pcall('PTTL', key)
  if type(left) ~= 'number' then return end
  if left >= 0 then
    redis.pcall('PEXPIRE', key, math.max(left, 1))
  elseif left == -1 and redis.pcall('PERSIST', key) == 0 then
    redis.pcall('PEXPIRE', key, MEMORY_MS)
    redis.pcall('PERSIST', key)
  end
end

local head = redis.call('HMGET', head_key, 'version', 'etag', 'saved')
local newest = head[2] == ticket
if newest or redis.call('LPOS', etags_key, ticket) then
  touch(newest and head_key or etags_key)
  return {'applied', newest and head[3] or ''}
end

redis.call('HSET', marks_key, ticket, '1')
redis.call('PEXPIRE', marks_key, MEMORY_MS)

-- The list tells only while it reaches back to what the write expected.
local reaches
if parent == '' then
  -- A list that was trimmed may be one short of full, after a failed save; one that is too short was evicted.
  local known = redis.call('LLEN', etags_key)
  reaches = known < ETAGS - 1 and known >= tonumber(head[2] and head[1] or '0')
else
  reaches = redis.call('LPOS', etags_key, parent)
end
if reaches then return {'never'} end
return {'gone', head[1] or '', head[2] or ''}
