"""Background loops that worker and API processes run."""
