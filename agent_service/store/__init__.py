"""The durable store: runs, controllers, policies and the decision log."""
