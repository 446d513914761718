"""Authentication: our own tokens, those of trusted issuers, and what must be true before the API starts."""
