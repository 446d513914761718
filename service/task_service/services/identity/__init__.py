"""Users, passwords and session tokens."""
