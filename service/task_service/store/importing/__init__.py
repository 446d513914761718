"""Databases of other services: the source that is read and the target that is written."""
