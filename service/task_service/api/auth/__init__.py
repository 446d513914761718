"""Authentication: our own tokens, tokens of trusted issuers, and the checks before the start."""
