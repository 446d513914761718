-- Let tasks wait that have just entered the queue. Arrays of one length: $1 task ids, $2 what each needs, $3 whether it
-- is cancelled when that does not complete. Returns needs that are not there.
SELECT let_wait($1, $2, $3)
