"""Routers of `/api/v1`, one per resource. They parse the input, call one function and return."""
