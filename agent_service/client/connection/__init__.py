"""Connection to a service: channel, TLS, deadlines, retries."""
