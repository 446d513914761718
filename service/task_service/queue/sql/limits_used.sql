-- Whether there is anything to admit or to hold back.
SELECT EXISTS (SELECT FROM queue WHERE state = 'blocked') OR EXISTS (SELECT FROM limits)
