"""Simulated children."""
