"""The one writer, and the group commit by which calls reach it."""
