"""One channel to a service: calls, deadlines, retries, TLS."""
