"""The `trainer-service` command, one file per group of commands."""
