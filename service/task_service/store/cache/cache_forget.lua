-- KEYS: value, mark. ARGV: the stamp of the change, the tombstone's life in ms, the server's tag.
-- Removes the value and leaves the tombstone; its stamp is never lowered.
local stamp, tag = ARGV[1], ARGV[3]
local gone, by = string.match(redis.call('GET', KEYS[2]) or '', '^gone:(%d+):(.*)$')
if gone and by == tag and tonumber(gone) > tonumber(stamp) then
    stamp = gone
end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], 'gone:' .. stamp .. ':' .. tag, 'PX', ARGV[2])
return 1
