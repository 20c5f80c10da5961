"""The device that children train on."""

from __future__ import annotations

import torch

from agent_service.domain.errors import AgentError


def find_device(name: str) -> torch.device:
    """Return the device of a name; raises AgentError where it is not there."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise AgentError(f"no device {name!r} here: {str(error).splitlines()[0]}") from error
    return device


def describe_device(device: torch.device) -> str:
    """Return a device in words, for results."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
