-- Hide task $1, which was deleted while a worker held it: its run will be hidden too.
UPDATE queue SET hidden = true WHERE task_id = $1
