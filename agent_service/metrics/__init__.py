"""The agent service's metrics."""
