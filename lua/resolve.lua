-- resolve: settle a write whose outcome is unknown. The reply stays true for good.
--
-- KEYS[1] head   hash      KEYS[2] etags  list      KEYS[3] marks  hash
-- ARGV[1] ticket     a save's etag, or a delete's ticket
-- ARGV[2] expected   the etag that the write expected; "" = it expected an absent run, or a run without an etag
--
-- Returns {"applied", saved_ms, "" = no longer the head} | {"never", version, etag} | {"gone", version, etag}
-- After "never" and "gone" no copy of the write, wherever it is, will be applied.

local head_key, etags_key, marks_key = KEYS[1], KEYS[2], KEYS[3]
local ticket, expected = ARGV[1], ARGV[2]
local parent = expected ~= '' and expected -- guard: empty-parent

-- include common

local head = redis.call('HMGET', head_key, 'version', 'etag', 'saved', 'origin')
local head_etag, origin, listed = head[2], head[4], true

-- include touch
-- include outcome
-- include marking

if applied(ticket, parent) then -- guard: applied
  return confirm({'applied', head_etag == ticket and head[3] or ''}) -- guard: saved-time
end
remember(ticket, NEVER) -- guard: marked
return {known(parent) and 'never' or 'gone', head[1] or '', head_etag or ''} -- guard: unknown-is-gone
