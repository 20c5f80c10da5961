"""Runs a study through the trainer services."""
