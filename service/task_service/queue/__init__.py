"""The queue: claim, finish, give back, heartbeat, release. One commented SQL file each in `sql/`, thin modules over.

Every function takes an asyncpg connection and is one statement on it: atomic by itself, or part of the caller's
transaction. Lock order everywhere: worker, queue rows by task id, then tasks.
"""
