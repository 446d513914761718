"""The HTTP service: the public API, the management port, and service C's paths."""
