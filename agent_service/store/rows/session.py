"""The store's session: one transaction on all tables."""

from __future__ import annotations

from agent_service.store.rows.controllers import Controllers
from agent_service.store.rows.log import Log
from agent_service.store.rows.retention import Retention
from agent_service.store.rows.rollouts import Rollouts
from agent_service.store.rows.runs import Runs


class Session(Controllers, Runs, Log, Rollouts, Retention):
    """A session, valid while its transaction is open: sees committed data and its own changes."""
