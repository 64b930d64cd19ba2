-- Included, after common.lua, by the scripts that leave marks. They define: marks_key.

local SAMPLE = 3 -- marks that are looked at for each one that is left: more than one, so that old ones get fewer

-- Remembers a name for MEMORY_MS. The hash lives as long as its newest mark, so that one that is marked again and
-- again must be rid of its old marks on the way. That is housekeeping: where it is forbidden, the mark counts.
local function remember(name, what)
  local now = redis.call('TIME')[1]
  redis.call('HSET', marks_key, name, what .. ' ' .. now)
  redis.call('PEXPIRE', marks_key, MEMORY_MS)
  local some = redis.pcall('HRANDFIELD', marks_key, SAMPLE, 'WITHVALUES')
  for place = 2, #some, 2 do
    local marked = tonumber(string.match(some[place], ' (%d+)$'))
    if marked and marked < now - MEMORY_MS / 1000 then redis.pcall('HDEL', marks_key, some[place - 1]) end
  end
end
