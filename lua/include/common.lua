-- Included by every script that writes to a run.

local MEMORY_MS = 900000 -- lifetime of marks, of a deleted run's etags, and of an absent run's fence

-- A mark's first character says what happened to the write that the mark names. LOST is the name of a mark for first
-- saves that no run can name any more.
local NEVER, APPLIED, LOST = '1', '2', '?'

-- Returns a whole number in decimal digits; drops any fraction. tostring(1e14) is "1e+14", and a conversion made for
-- doubles takes ten times as long.
local function text(number) return string.format('%d', number) end -- guard: digits
