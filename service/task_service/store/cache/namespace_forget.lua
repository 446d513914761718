-- KEYS: the family's mark. ARGV: its new mark, that one's life in ms. What was kept under another mark counts no more.
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
