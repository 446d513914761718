"""The read cache in Redis: fills, invalidation and the outbox for what Redis missed."""
