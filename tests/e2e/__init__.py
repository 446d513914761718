"""End-to-end tests: a real cluster with the operator and task services."""
