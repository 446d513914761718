-- KEYS: value, mark. ARGV: how a value begins that this server kept, a fresh mark, its life in ms.
-- Gives {value} when there is one; else {false, mark}: whoever fills must find that mark unchanged.
local value = redis.call('GET', KEYS[1])
if value and string.sub(value, 1, #ARGV[1]) == ARGV[1] then
    return {value}
end
local mark = redis.call('GET', KEYS[2])
if not mark then
    mark = ARGV[2]
    redis.call('SET', KEYS[2], mark, 'PX', ARGV[3])
end
return {false, mark}
