"""Kubernetes: API client, kinds, cache of watched objects, reads and writes, and drift."""
