"""HTTP mechanics: edge middleware, headers, problems, bodies, idempotency, rate limits and event streams."""
