"""A fake of Ray for tests of workers: actors run in threads of the test process."""

import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

NODES = [{"Alive": True}, {"Alive": False}]


class FakeRay:
    """The part of Ray's API that workers use.

    An actor is placed once `room` is set. Arguments and results are pickled, as between machines.
    """

    def __init__(self) -> None:
        self.room = threading.Event()
        """Set while actors can be placed."""
        self.room.set()
        self.actors: list[FakeActor] = []
        """All actors ever created."""
        self.options: dict[str, Any] = {}
        """Options of the newest actor."""
        self.is_shut_down = False

    def init(self, _address: str, **_options: object) -> None:
        """Do nothing."""

    def nodes(self) -> list[dict[str, bool]]:
        return NODES

    def shutdown(self) -> None:
        self.is_shut_down = True

    def remote(self, kind: Callable[[], Any]) -> "FakeActorClass":
        return FakeActorClass(self, kind)

    def wait(
        self, answers: Sequence["Future[Any]"], timeout: float
    ) -> tuple[list["Future[Any]"], list["Future[Any]"]]:
        done, pending = wait(answers, timeout)
        return list(done), list(pending)

    def get(self, answer: "Future[Any]", timeout: float) -> Any:
        try:
            return answer.result(timeout)
        except TimeoutError:
            raise GetTimeoutError from None

    def kill(self, actor: "FakeActor") -> None:
        actor.die()


class FakeActorClass:
    """The result of `ray.remote(CLASS)`."""

    def __init__(self, ray: FakeRay, kind: Callable[[], Any]) -> None:
        self._ray, self._kind = ray, kind

    def options(self, **options: Any) -> "FakeActorClass":
        self._ray.options = options
        return self

    def remote(self) -> "FakeActor":
        actor = FakeActor(self._ray.room, self._kind(), self._ray.options["max_concurrency"])
        self._ray.actors.append(actor)
        return actor


class FakeActor:
    """An object whose methods are called as `actor.method.remote(...)`, until it dies."""

    def __init__(self, room: threading.Event, held: Any, threads: int) -> None:
        self.held = held
        self.is_dead = False
        self._room = room
        self._answers: list[Future[Any]] = []
        self._pool = ThreadPoolExecutor(threads)

    def die(self, reason: str = "The node died. It was killed.") -> None:
        """Fail all pending calls, and all later ones."""
        self.is_dead = True
        for answer in self._answers:
            with suppress(InvalidStateError):
                answer.set_exception(RayActorError(error_msg=f"The actor died:\n{reason}"))
        self._pool.shutdown(wait=False)

    def __getattr__(self, name: str) -> "FakeMethod":
        return FakeMethod(self, name)

    def call(self, name: str, arguments: Sequence[Any]) -> "Future[Any]":
        answer = Future[Any]()
        self._answers.append(answer)
        if self.is_dead:
            self.die()
        else:
            self._pool.submit(self._answer, answer, name, pickle.dumps(arguments))
        return answer

    def _answer(self, answer: "Future[Any]", name: str, arguments: bytes) -> None:
        self._room.wait()
        with suppress(InvalidStateError):  # it died meanwhile
            try:
                result = getattr(self.held, name)(*pickle.loads(arguments))
                answer.set_result(pickle.loads(pickle.dumps(result)))
            except Exception as error:
                answer.set_exception(RayTaskError(name, "", error, proctitle="", ip="127.0.0.1"))


class FakeMethod:
    def __init__(self, actor: FakeActor, name: str) -> None:
        self._actor, self._name = actor, name

    def remote(self, *arguments: Any) -> "Future[Any]":
        return self._actor.call(self._name, arguments)
