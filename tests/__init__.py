"""Tests: unit, integration, charts, task_operator, e2e; `cluster` and `support` are what they run
on.
"""
