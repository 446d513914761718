"""Rescue of the tasks of dead worker processes."""
