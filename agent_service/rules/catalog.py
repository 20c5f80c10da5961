"""The rules of controllers and their policies: create, freeze, delete, export, import."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from agent_service.domain.checks import differences, quoted
from agent_service.domain.errors import AlreadyExists, FailedPrecondition, NotFound, invalid, within
from agent_service.domain.runs import Controller, Mode, RunState
from agent_service.domain.specs import ControllerSpec
from agent_service.domain.store import Origin, PolicyEntry, PolicyVersion, T, Usage
from agent_service.learning import policies
from agent_service.rules.capacity import DEFAULT, Capacity
from agent_service.rules.completion import adopted_policy, completed
from agent_service.rules.lookups import CREATE_IT, found_controller, found_policy
from agent_service.store.rows.session import Session
from agent_service.store.store import SqlStore


@dataclass(frozen=True, slots=True)
class NewController:
    """A prepared controller, ready to be stored."""

    asked: ControllerSpec
    """The spec as requested."""
    spec: ControllerSpec
    """The spec completed from the store."""
    policy: bytes | None
    """Policy version 1; None if it has none, or the controller exists."""


class Catalog:
    """Creates, changes and reads controllers.

    Writes return futures that are done when the change is durable; reads return at once.
    Thread-safe.
    """

    def __init__(
        self,
        store: SqlStore,
        *,
        capacity: Capacity = DEFAULT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Use `store`, which the caller closes."""
        self._store = store
        self._capacity = capacity
        self._clock = clock

    def prepared(self, spec: ControllerSpec) -> NewController:
        """Prepare a controller for `create_controller`, which may take long; raises as that."""
        return self._store.read(lambda session: self._prepared(session, spec))

    def create_controller(
        self, spec: ControllerSpec | NewController, mode: Mode
    ) -> Future[Controller]:
        """Create a controller; with the spec of an existing one, return that one.

        Raises:
            AlreadyExists: the name has another spec, or belonged to a deleted controller.
            InvalidArgument: the mode is only for runs, a replayed value is out of range, the policy
                to start from has another shape or meaning, or the whole is too large.
            NotFound: the run to replay, or the policy to start from, does not exist.
            FailedPrecondition: the run to replay is not finished, or reported nothing; the
                controller to start from has no policy.
            ResourceExhausted: it exceeds a limit of the service.
        """
        _check_mode(mode)

        def work(session: Session) -> Controller:
            new = spec if isinstance(spec, NewController) else self._prepared(session, spec)
            return self._create_controller(session, new, mode)

        return self._store.write(work)

    def _prepared(self, session: Session, spec: ControllerSpec) -> NewController:
        existing = session.find_controller(spec.name)
        asked, spec = spec, completed(session, spec, existing)
        if existing is not None:
            return NewController(asked, spec, None)
        self._capacity.check_new_controller(session, spec)
        data = adopted_policy(session, spec)
        if data is None:
            with within(f"spec.{spec.algorithm.kind}."):
                data = policies.initial(spec)
        return NewController(asked, spec, data)

    def _create_controller(self, session: Session, new: NewController, mode: Mode) -> Controller:
        spec, existing = new.spec, session.find_controller(new.spec.name)
        if existing is None:
            self._capacity.check_new_controller(session, spec)
            controller = session.add_controller(spec, mode=mode, now=self._clock())
            if new.policy is None:
                return controller
            version = self._add_policy(session, controller, new.policy, Origin.INITIAL)
            return replace(controller, policy_version=version)
        if existing.is_deleted:
            raise AlreadyExists(f"controller {spec.name!r} was deleted; its name stays taken")
        # Another caller may have created it since `prepared`, from another state of the store.
        spec = completed(session, new.asked, existing)
        if existing.spec != spec:
            raise AlreadyExists(
                f"controller {spec.name!r} has another spec: {differences(existing.spec, spec)}; "
                "choose another name, or send the existing spec"
            )
        return existing

    def get_controller(self, name: str) -> tuple[Controller, Usage]:
        """Return a controller and its counts; raises NotFound."""

        def work(session: Session) -> tuple[Controller, Usage]:
            controller = found_controller(session, name, fix=CREATE_IT)
            return controller, session.usage(controller)

        return self._store.read(work)

    def list_controllers(
        self, *, after: str, limit: int, page: Callable[[Iterator[tuple[Controller, Usage]]], T]
    ) -> T:
        """Return `page` of the controllers by name, after the name `after`.

        Each is read when it is taken from the iterator, since specs may be large.
        """
        return self._store.read(
            lambda session: page(
                (c, session.usage(c)) for c in session.list_controllers(after=after, limit=limit)
            )
        )

    def set_mode(self, name: str, mode: Mode) -> Future[Controller]:
        """Set a controller's mode to learning or frozen; raises NotFound, InvalidArgument."""
        _check_mode(mode)

        def work(session: Session) -> Controller:
            session.set_mode(found_controller(session, name), mode)
            return found_controller(session, name)

        return self._store.write(work)

    def delete_controller(self, name: str) -> Future[None]:
        """Delete a controller, keeping its log; raises NotFound, FailedPrecondition."""

        def work(session: Session) -> None:
            controller = session.find_controller(name)
            if controller is None:
                raise NotFound(f"no controller {quoted(name)}")
            active = session.usage(controller).runs[RunState.ACTIVE]
            if active:
                raise FailedPrecondition(
                    f"controller {name!r} has {active} active runs; finish them"
                )
            if not controller.is_deleted:
                session.delete_controller(controller, now=self._clock())

        return self._store.write(work)

    def list_policies(self, name: str, *, before: int | None, limit: int) -> Sequence[PolicyEntry]:
        """Return a page of a controller's policy versions below `before`, newest first.

        Raises:
            NotFound: the controller does not exist.
            FailedPrecondition: the controller's algorithm has no policy.
        """
        return self._store.read(
            lambda session: session.list_policies(
                _with_policy(session, name), before=before, limit=limit
            )
        )

    def export_policy(self, name: str, version: int) -> PolicyVersion:
        """Return a policy version; 0 for the newest.

        Raises:
            NotFound: the controller or version does not exist.
            FailedPrecondition: the controller's algorithm has no policy.
        """

        def work(session: Session) -> PolicyVersion:
            controller = _with_policy(session, name)
            return found_policy(session, controller, version or controller.policy_version)

        return self._store.read(work)

    def largest_policy(self, name: str) -> int:
        """Return the maximum size in bytes of a controller's policy files.

        Raises:
            NotFound: the controller does not exist.
            FailedPrecondition: the controller's algorithm has no policy, or keeps its first.
        """
        return self._store.read(lambda session: policies.largest(_importing(session, name).spec))

    def check_policy(self, name: str, data: bytes) -> None:
        """Validate a policy file, which may take long.

        Raises:
            NotFound: the controller does not exist.
            FailedPrecondition: the controller's algorithm has no policy, or keeps its first.
            InvalidArgument: the file is not a policy that fits the controller.
        """
        policies.load(data, self._store.read(lambda session: _importing(session, name).spec))

    def import_policy(self, name: str, data: bytes) -> Future[int]:
        """Store a policy file as the newest version, unless that already equals it.

        Args:
            name: the controller's name.
            data: a file that `check_policy` accepted; a controller's spec never changes.

        Raises:
            NotFound: the controller does not exist.
            FailedPrecondition: the controller's algorithm has no policy, or keeps its first.
        """

        def work(session: Session) -> int:
            controller = _importing(session, name)
            newest = session.find_policy(controller, controller.policy_version)
            if newest is not None and newest.data == data:
                return newest.version
            return self._add_policy(session, controller, data, Origin.IMPORTED)

        return self._store.write(work)

    def _add_policy(
        self, session: Session, controller: Controller, data: bytes, origin: Origin
    ) -> int:
        version = controller.policy_version + 1
        session.add_policy(
            controller,
            PolicyVersion(
                version=version, data=data, origin=origin, statistics={}, created_at=self._clock()
            ),
        )
        return version


def _check_mode(mode: Mode) -> None:
    if mode is Mode.SHADOW:
        raise invalid("mode", "shadow is a mode of runs; a controller is learning or frozen")


def _with_policy(session: Session, name: str) -> Controller:
    """Return a controller that has policies; raises NotFound, FailedPrecondition."""
    controller = found_controller(session, name)
    if controller.policy_version == 0:
        kind = controller.spec.algorithm.kind
        raise FailedPrecondition(f"controller {name!r} is {kind}: it has no policy")
    return controller


def _importing(session: Session, name: str) -> Controller:
    """Return a controller that takes policies from files; raises NotFound, FailedPrecondition."""
    controller = _with_policy(session, name)
    if policy := controller.spec.algorithm.shipped_policy:
        raise FailedPrecondition(
            f"controller {name!r} decides by {policy!r} for good; import the file into a ppo "
            "controller, and freeze that"
        )
    return controller
