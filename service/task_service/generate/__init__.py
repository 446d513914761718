"""Generators of the reference pages and `.env.example`."""
