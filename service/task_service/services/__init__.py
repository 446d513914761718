"""What a request does: decisions, then the store and the queue in one transaction."""
