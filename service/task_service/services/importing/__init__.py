"""`task-service import`: import of tasks, users and history from the tables of services A to E."""
