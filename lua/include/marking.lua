-- Included, after common.lua, by the scripts that leave marks. They define marks_key.

local SAMPLE = 3 -- marks examined for each new one; more than one, so that old marks get fewer

-- Marks a write or an acquisition by its name, for MEMORY_MS. The hash lives as long as its newest mark, so a run that
-- is refused again and again must drop old marks on the way. That is housekeeping: if it fails, the new mark counts.
local function remember(name, what)
  local now = redis.call('TIME')[1]
  redis.call('HSET', marks_key, name, what .. ' ' .. now) -- guard: mark-left
  redis.call('PEXPIRE', marks_key, MEMORY_MS) -- guard: marks-expire
  local some = redis.pcall('HRANDFIELD', marks_key, SAMPLE, 'WITHVALUES') -- guard: sample-errors
  for place = 2, #some, 2 do
    local marked = tonumber(string.match(some[place], ' (%d+)$'))
    if marked and marked < now - MEMORY_MS / 1000 then -- guard: old-mark
      redis.pcall('HDEL', marks_key, some[place - 1]) -- guard: removal-errors
    end
  end
end
