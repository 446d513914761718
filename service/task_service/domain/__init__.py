"""Statuses, outcomes, field rules, permissions and errors of the product: pure, without I/O."""
