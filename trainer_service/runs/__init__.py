"""Runs of a trainer service: their values, queue, store, retained checkpoints and metrics."""
