"""HTTP mechanics that are independent of a resource, such as problems and rate limits."""
