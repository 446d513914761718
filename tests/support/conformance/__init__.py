"""Deployments of the service, and checks of their responses, for the conformance suites."""
