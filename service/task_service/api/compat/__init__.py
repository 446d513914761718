"""Thin routers that speak the words of earlier services."""
