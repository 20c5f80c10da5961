"""The rules of controllers and runs: validation, decisions, what is stored."""
