-- The state of worker $1. No row: nobody registered it.
SELECT state FROM workers WHERE id = $1
