"""The agent service: a learned policy picks the regularization of running trainings."""

__version__ = "0.1.0"
