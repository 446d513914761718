"""Routers of `/api/v1`, one per resource: they parse, call one function, and answer."""
