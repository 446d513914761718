"""Tables and what reads and writes them, apart from the queue's hot path."""
