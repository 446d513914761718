-- KEYS: value, the family's mark. ARGV: the mark that the reader found, the server's tag, the body, its life in ms.
-- Keeps the body (1) unless the mark has changed or gone, or somebody is about to change the family (0).
if redis.call('GET', KEYS[2]) ~= ARGV[1] or string.sub(ARGV[1], 1, 5) ~= 'open:' then
    return 0
end
redis.call('SET', KEYS[1], ARGV[2] .. '|' .. ARGV[1] .. '|' .. ARGV[3], 'PX', ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
