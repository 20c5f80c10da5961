"""Policies and how they learn; the only package that knows torch and stable-baselines3."""
