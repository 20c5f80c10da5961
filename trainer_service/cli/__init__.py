"""The `trainer-service` command: one file for each group of commands."""
