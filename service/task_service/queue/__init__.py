"""The queue's operations: claim, finish, give back, heartbeat, release.

Each statement is one commented file in `sql/`; the modules are thin functions around them. Every
function takes an asyncpg connection and runs one statement on it, which is atomic by itself or part
of the caller's transaction. All statements lock in the same order: worker, then queue rows by task
id, then tasks.
"""
