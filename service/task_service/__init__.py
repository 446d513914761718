"""The task service: an HTTP API, workers and a PostgreSQL queue with fencing."""
