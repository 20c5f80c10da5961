"""The rules of controllers and runs: what is valid, what is decided, what is kept."""
