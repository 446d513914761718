-- Take task $1 out of the queue, whoever holds it: the task itself is about to go. Its worker has then lost the claim.
DELETE FROM queue WHERE task_id = $1
