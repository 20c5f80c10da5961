"""The single writer, and the group commit in front of it."""
