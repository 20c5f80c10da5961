"""Drives a PyTorch model by a run's values. Imported only if a model is given; needs torch."""

from agent_service.client.model.drives import release
from agent_service.client.model.validation import Validation, predict_pair

__all__ = ["Validation", "predict_pair", "release"]
