"""Drives a PyTorch model by a run's values. Imported only where a model is given; needs torch."""
