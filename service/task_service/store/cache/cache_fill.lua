-- KEYS: value, mark. ARGV: the mark that the reader found, the stamp it read, the value, its life in ms, the server's tag.
-- Keeps the value (1) unless the mark has changed or gone, or there is or will be something newer (0).
local mark = redis.call('GET', KEYS[2])
local stamp, tag = tonumber(ARGV[2]), ARGV[5]
if mark ~= ARGV[1] then
    return 0
end
local gone, by = string.match(mark, '^gone:(%d+):(.*)$')
if gone and by == tag and tonumber(gone) > stamp then
    return 0
end
local server, newer = string.match(redis.call('GET', KEYS[1]) or '', '^{"server":"([^"]*)","stamp":(%d+),')
if newer and server == tag and tonumber(newer) > stamp then
    return 0
end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
return 1
