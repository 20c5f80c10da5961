"""What can be wrong with an archive."""

from __future__ import annotations

from agent_service.domain.errors import AgentError


class ArchiveError(AgentError):
    """An archive cannot be read or written: see the message."""
