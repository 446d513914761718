"""Replica counts, and draining workers before a scale-down."""
