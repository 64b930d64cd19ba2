-- Included by every script that writes to a run.

local MEMORY_MS = 900000 -- how long marks, the etags of a deleted run, and an absent run's fence are remembered

-- Numbers leave Lua through this: tostring(1e14) is "1e+14".
local function text(number) return string.format('%.0f', number) end
