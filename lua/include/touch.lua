-- Included, after common.lua, by the scripts that may report an earlier copy as applied.

local ELSEWHERE = ' READONLY NOREPLICAS MASTERDOWN ' -- guard: demoted-errors

-- Writes without changing anything: WAIT returns at once on a connection that has written nothing. Full memory does
-- not refuse these commands. PERSIST comes first, to prove that a lifetime can be removed again.
-- Returns an error if the server must not answer, because it may be a demoted primary. Ignores a missing permission,
-- which must not hide the answer.
local function touch(key)
  local refused
  local function try(...)
    local reply = redis.pcall(...) -- guard: tried
    -- Redis 6 puts the place of the error before its first word.
    local word = type(reply) == 'table' and reply.err and string.match(reply.err, '^[^%u]*(%u+)') -- guard: error-word
    if word and string.find(ELSEWHERE, ' ' .. word .. ' ', 1, true) then -- guard: demoted
      refused = redis.error_reply(string.match(reply.err, '%u.*'))
    end
    return reply
  end
  local left = try('PTTL', key) -- guard: lifetime-read
  if type(left) ~= 'number' then return refused end -- guard: lifetime-unreadable
  if left >= 0 then -- guard: lifetime-renewed
    try('PEXPIRE', key, math.max(left, 1)) -- guard: same-lifetime
  elseif try('PERSIST', key) == 0 and left == -1 then -- guard: persist-first
    try('PEXPIRE', key, MEMORY_MS) -- guard: lifetime-given
    try('PERSIST', key) -- guard: lifetime-removed
  end
  return refused -- guard: refusal-returned
end
