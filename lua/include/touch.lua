-- Included, after common.lua, by the scripts that may say of an earlier copy that it was applied.

local ELSEWHERE = ' READONLY NOREPLICAS MASTERDOWN ' -- errors of a server whose answer does not count

-- A write that changes nothing: WAIT answers at once for a connection that has written nothing. It is not one that
-- full memory refuses, and PERSIST comes first to prove that the lifetime can be taken off again. A missing
-- permission must not hide the answer; a server that may not answer, a demoted primary say, must not give it.
local function touch(key)
  local refused
  local function try(...)
    local reply = redis.pcall(...)
    -- Redis 6 puts where it happened before the error's first word.
    local word = type(reply) == 'table' and reply.err and string.match(reply.err, '^[^%u]*(%u+)')
    if word and string.find(ELSEWHERE, ' ' .. word .. ' ', 1, true) then
      refused = redis.error_reply(string.match(reply.err, '%u.*'))
    end
    return reply
  end
  local left = try('PTTL', key)
  if type(left) ~= 'number' then return refused end
  if left >= 0 then
    try('PEXPIRE', key, math.max(left, 1))
  elseif try('PERSIST', key) == 0 and left == -1 then
    try('PEXPIRE', key, MEMORY_MS)
    try('PERSIST', key)
  end
  return refused
end
