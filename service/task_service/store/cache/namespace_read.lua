-- KEYS: value, the family's mark. ARGV: the server's tag, a fresh mark, its life in ms.
-- A value counts while it was kept by this server under the present mark. Gives {body} or {false, mark}.
local mark = redis.call('GET', KEYS[2])
if not mark then
    mark = ARGV[2]
    redis.call('SET', KEYS[2], mark, 'PX', ARGV[3])
end
local head = ARGV[1] .. '|' .. mark .. '|'
local value = redis.call('GET', KEYS[1])
if value and string.sub(value, 1, #head) == head then
    return {string.sub(value, #head + 1)}
end
return {false, mark}
