-- probe: run every command that the other scripts use, on a scratch key. A missing permission then shows when a
-- backend connects, and not between two writes of a save.
--
-- KEYS[1] scratch   a key that nothing else uses
-- Returns an array of "error (COMMAND)"; empty if the server allows all of them.

local scratch = KEYS[1]
local problems = {}

local function try(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then -- no guard: tested by test_probe.py
    problems[#problems + 1] = reply.err .. ' (' .. select(1, ...) .. ')'
  end
end

try('DEL', scratch)
try('TYPE', scratch)
try('EXISTS', scratch)
try('HSET', scratch, 'a', '1')
try('HMGET', scratch, 'a')
try('HEXISTS', scratch, 'a')
try('HRANDFIELD', scratch, 1)
try('PEXPIRE', scratch, 1000)
try('PEXPIREAT', scratch, 4102444800000)
try('PERSIST', scratch)
try('PTTL', scratch)
try('HDEL', scratch, 'a')
try('DEL', scratch)
try('RPUSH', scratch, 'a')
try('LPOS', scratch, 'a')
try('LLEN', scratch)
try('LINDEX', scratch, 0)
try('LRANGE', scratch, 0, 0)
try('LTRIM', scratch, -256, -1)
try('LPOP', scratch)
try('LREM', scratch, 1, 'a')
try('DEL', scratch)
try('XADD', scratch, '0-1', 'a', '1')
try('XLEN', scratch)
try('XTRIM', scratch, 'MINID', '0-1')
try('TIME')
try('PUBLISH', scratch, '')
try('DEL', scratch)
return problems
