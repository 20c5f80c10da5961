"""A distribution of problems that train in a moment."""

from typing import Any

from trainer_service.pretraining.distribution import Problems

CONTENT: dict[str, Any] = {
    "chunk_size": 4,
    "chunks": (2, 3),
    "classes": (2, 5),
    "training_size": (60, 90),
    "twins": 2,
    "groups": 2,
    "data": [{"dataset": "prototypes", "sizes": [8]}],
    "models": [{"model": "mlp", "width": [0.0625, 0.0625], "depth": [1, 2]}],
    "learning": {"children": 16, "stacks": 2, "batch_size": 8, "n_epochs": 2},
}


def tiny(**changes: Any) -> Problems:
    return Problems.model_validate(CONTENT | changes)
