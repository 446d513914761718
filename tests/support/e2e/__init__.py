"""Helpers of the end-to-end tests, the demo and the cluster benchmark."""
