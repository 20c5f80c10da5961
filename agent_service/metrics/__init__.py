"""The agent service's Prometheus metrics."""
