"""`task-service import`: tasks, users and history of the services A to E, from their own tables into ours."""
