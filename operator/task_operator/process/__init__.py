"""The operator process: command line, leader election, watches, work queues and settings."""
