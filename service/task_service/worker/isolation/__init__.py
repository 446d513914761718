"""Handlers in a process of their own: both sides of the pipe, fork safety and captured output."""
