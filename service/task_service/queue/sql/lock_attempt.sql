-- Lock the queue row of task $1 for this transaction, if worker $2 holds it under fence $3. No row: the claim is lost.
SELECT true FROM queue WHERE task_id = $1 AND worker_id IS NOT DISTINCT FROM $2 AND fence = $3 FOR UPDATE
