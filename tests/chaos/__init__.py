"""Chaos tests: real processes, faults drawn from a seed, and checks of the database.

See docs/chaos.md.
"""
