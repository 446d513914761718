-- KEYS: counter of one caller in one window. ARGV: seconds after which the counter expires.
-- Returns the number of requests so far, this one included. If it runs twice, one request counts as two.
local count = redis.call('INCR', KEYS[1])
if count == 1 then
    redis.call('EXPIRE', KEYS[1], ARGV[1])
end
return count
