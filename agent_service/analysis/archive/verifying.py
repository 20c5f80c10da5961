"""Verification of an archive, against the store that its runs left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from agent_service.analysis.archive.folder import Archive, ArchivedRun
from agent_service.analysis.verification import VerificationError, Verified, verify_run
from agent_service.domain.specs import ControllerSpec
from agent_service.domain.store import Decider, Policies, Session, Store
from agent_service.rules.policies import PolicyCache


def verify_archive(
    store: Store,
    archive: Archive,
    *,
    make_decider: Callable[[ControllerSpec], Decider],
    policies: Policies,
) -> Iterator[Verified]:
    """Derive each archived decision again, run by run, lazily; those that the store has are its.

    Raises:
        VerificationError: a run is of another store, or not all are there that left this one.
    """
    cache = PolicyCache(policies)
    found: Counter[str] = Counter()
    for archived in archive.runs(with_pending=True):

        def check(session: Session, archived: ArchivedRun = archived) -> list[Verified] | None:
            if not _has_left(session, archived):
                return None
            return verify_run(
                session, archived.run, archived.decisions, make_decider=make_decider, cache=cache
            )

        verified = store.read(check)
        if verified is not None:
            found[archived.archive] += 1
            yield from verified
    for name, count in store.read(lambda session: session.archives()).items():
        if found[name] != count:
            raise VerificationError(
                f"archive file {name}: {count} runs were pruned into it, {found[name]} are there"
            )


def _has_left(session: Session, archived: ArchivedRun) -> bool:
    """Whether the store says that a run is in the file where it was found."""
    run = archived.run
    where = f"archive file {archived.archive}: run {run.id}"
    known = session.find_run(run.id)
    if known is None or known.controller.spec != run.controller.spec:
        raise VerificationError(f"{where} is of another store")
    if known.archive is None or (archived.is_pending and known.archive != archived.archive):
        return False
    if known.archive != archived.archive:
        raise VerificationError(f"{where} was pruned into {known.archive}")
    if replace(known, archive=None, controller=run.controller) != run:
        raise VerificationError(f"{where} is not as it was when it was pruned: {run}")
    return True
