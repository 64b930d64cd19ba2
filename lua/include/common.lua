-- Included by every script that writes to a run.

local MEMORY_MS = 900000 -- how long marks, the etags of a deleted run, and an absent run's fence are remembered

-- What a mark says of the write that it names. LOST stands for writes that nobody can name any more.
local NEVER, APPLIED, LOST = '1', '2', '?'

-- Numbers leave Lua through this, whole as they all are: what is behind a point is cut off. tostring(1e14) is
-- "1e+14", and what prints doubles takes ten times as long.
local function text(number) return string.format('%d', number) end
