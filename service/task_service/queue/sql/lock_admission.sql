-- Take the turn to admit, until the transaction ends. False: somebody else has it. A statement of its own, so that the
-- snapshot of admit.sql is of after the turn of before.
SELECT pg_try_advisory_xact_lock(7305612448003)
