-- Included, after common.lua and touch.lua, by the scripts that must know whether a write was applied. They define:
-- head_key, etags_key, marks_key, head_etag (false: the run is absent), origin (the etag of its version 1), and
-- listed: whether the etags are a list.
--
-- A write goes by its name, an etag or a ticket, and by its parent: the etag that it was sent for; false: it was sent
-- for a run that had none.

local function in_list(name) return listed and redis.call('LPOS', etags_key, name) end
local function mark_of(name) return redis.call('HMGET', marks_key, name)[1] or '' end

-- The list reaches back 256 writes. A run's first save is known for as long as the run lives, by the head, and after
-- its delete by a mark: a copy of it must not bring the run back.
local function applied(name, parent)
  if name == head_etag or in_list(name) then return true end
  return not parent and (name == origin or string.sub(mark_of(name), 1, 1) == APPLIED)
end

-- Whether applied() would know. The list knows only while it reaches back to the parent.
local function known(parent)
  if parent then return parent == head_etag or in_list(parent) end
  return (origin or not head_etag) and mark_of(LOST) == ''
end

-- Says that a write was applied; first a write that changes nothing, for WAIT. Rather to the list than to the head,
-- whose deadline must stay that of the log to the millisecond.
local function confirm(reply)
  local full = listed and redis.call('LLEN', etags_key) > 0
  return touch(full and etags_key or head_etag and head_key or marks_key) or reply
end
