"""Access to the management port of the service's pods: HTTP client, tokens and signing keys."""
