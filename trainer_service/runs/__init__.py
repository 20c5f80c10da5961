"""The queue of runs, their store, retained checkpoints and metrics."""
