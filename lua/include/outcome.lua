-- Included, after common.lua and touch.lua, by the scripts that must know whether a write was applied. They define
-- head_key, etags_key, marks_key, head_etag (false: the run is absent), origin (the etag of its version 1), and
-- listed (whether the etags are a list).
--
-- A write is known by its name, an etag or a ticket, and by its parent: the etag that it expected. A parent of false
-- means that it expected a run without an etag.

local function in_list(name)
  return
    listed and -- guard: foreign-list
    redis.call('LPOS', etags_key, name)
end
local function mark_of(name) return redis.call('HMGET', marks_key, name)[1] or '' end

-- Returns whether the write was applied. The list reaches back 256 writes. A run's first save is known for longer: by
-- the head while the run lives, and by a mark after its delete. A copy of it must not bring the run back.
local function applied(name, parent)
  if name == head_etag or in_list(name) then return true end -- guard: applied-recently
  return not parent
    and (name == origin or string.sub(mark_of(name), 1, 1) == APPLIED) -- guard: first-save
end

-- Returns whether applied() can be trusted. The list is complete only while it reaches back to the parent.
local function known(parent)
  if parent then -- guard: parent-given
    return parent == head_etag or in_list(parent) -- guard: parent-listed
  end
  return (origin or not head_etag) and mark_of(LOST) == '' -- guard: first-save-known
end

-- Returns `reply`, after a write that changes nothing: WAIT needs one. It writes to the list if there is one, because
-- the head's deadline must stay equal to the log's, to the millisecond.
local function confirm(reply)
  local full = listed and redis.call('LLEN', etags_key) > 0 -- guard: list-filled
  return
    touch(full and etags_key or head_etag and head_key or marks_key) or -- guard: confirmed
    reply
end
