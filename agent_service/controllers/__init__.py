"""Algorithms, one file each: settings, their checks, and how they decide."""
