-- Whether it is time to look at all limits: something waits for one or could, and nobody has looked for $1 seconds.
SELECT (EXISTS (SELECT FROM queue WHERE state = 'blocked' AND NOT waits) OR EXISTS (SELECT FROM limits))
    AND EXISTS (SELECT FROM limits_looked_at WHERE at < clock_timestamp() - make_interval(secs => $1))
