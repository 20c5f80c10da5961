"""A run as the training script sees it: values to train under, steps to tell, chunks to report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, SupportsFloat

import numpy as np

from agent_service import convert
from agent_service.client.calls import Calls
from agent_service.domain.rewards import GivenReward, Scores
from agent_service.domain.runs import ChunkReport, FinishRun, Outcome
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1 import agent_pb2_grpc


class Run:
    """One training under a controller; made by `AgentClient.run`.

    Leaving it as a context manager finishes it: terminated at its end, cancelled on Ctrl-C,
    truncated by any other exception. Not thread-safe: it belongs to one training loop.
    """

    def __init__(
        self,
        calls: Calls,
        stub: agent_pb2_grpc.AgentServiceStub,
        *,
        run_id: str,
        chunk_size: int,
        action: pb.Action,
    ) -> None:
        """Take a run that was started, with its A_0."""
        self._calls = calls
        self._stub = stub
        self.run_id = run_id
        self.chunk_size = chunk_size
        """N, training steps in a chunk."""
        self.action = action
        """What was decided for the chunk that trains now."""
        self._losses: list[SupportsFloat] = []
        self._scores: list[SupportsFloat] = []
        self._is_finished = False

    @property
    def hyperparameters(self) -> dict[str, float]:
        """The values to train the current chunk under, by name."""
        return dict(self.action.values)

    @property
    def chunk_full(self) -> bool:
        """Whether N steps were told and `report` is due."""
        return len(self._losses) == self.chunk_size

    def step(self, loss: SupportsFloat, score: SupportsFloat) -> None:
        """Tell one training step; both stay where they are until the chunk is reported.

        Args:
            loss: the step's training loss, a number or a scalar tensor.
            score: the step's training score in [0, 1], larger is better, e.g. macro F1.

        Raises:
            RuntimeError: where the chunk is full already.
        """
        if self.chunk_full:
            raise RuntimeError("the chunk is full: call run.report(validation_score) first")
        self._losses.append(_detached(loss))
        self._scores.append(_detached(score))

    def report(
        self, validation_score: SupportsFloat, *, applied: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Report the full chunk and return the values for the next one.

        Args:
            validation_score: mean score of the chunk's validation batches, in [0, 1].
            applied: what the chunk ran under, where that was not what was decided; a shadow run
                says it always.

        Raises:
            RuntimeError: where the chunk is not full yet.
            AgentError: what the service answered; the chunk is kept, to be reported again.
        """
        if not self.chunk_full:
            raise RuntimeError(f"the chunk has {len(self._losses)} of {self.chunk_size} steps")
        losses = [float(loss) for loss in self._losses]
        training = float(np.mean([float(score) for score in self._scores]))
        values = self.report_chunk(
            losses,
            training_score=training,
            validation_score=float(validation_score),
            applied=applied,
        )
        self._losses.clear()
        self._scores.clear()
        return values

    def report_chunk(
        self,
        losses: Sequence[float],
        *,
        training_score: float,
        validation_score: float,
        applied: Mapping[str, float] | None = None,
        chunk: int | None = None,
    ) -> dict[str, float]:
        """Report a chunk that was collected elsewhere and return the values for the next one.

        Args:
            losses: the N training losses, in order.
            training_score: mean training score, in [0, 1].
            validation_score: mean validation score, in [0, 1].
            applied: what the chunk ran under, where that was not what was decided.
            chunk: its index, from 1; the next one's by default. A training that goes on from a
                checkpoint reports its last chunk again, and is answered as it was then.
        """
        scores = Scores(training=training_score, validation=validation_score)
        return self._send(losses, scores, applied, chunk)

    def report_reward(self, losses: Sequence[float], reward: float) -> dict[str, float]:
        """Report a chunk with a ready reward, for controllers whose reward is `given`."""
        return self._send(losses, GivenReward(reward), None)

    def _send(
        self,
        losses: Sequence[float],
        feedback: Scores | GivenReward,
        applied: Mapping[str, float] | None,
        chunk: int | None = None,
    ) -> dict[str, float]:
        self.send(self.request(losses, feedback, applied=applied, chunk=chunk))
        return self.hyperparameters

    def request(
        self,
        losses: Sequence[float],
        feedback: Scores | GivenReward,
        *,
        applied: Mapping[str, float] | None = None,
        chunk: int | None = None,
    ) -> pb.ReportChunkRequest:
        """Return the report of the current chunk, or of another, to be sent.

        Raises:
            InvalidArgument: a loss, score or index is out of range.
        """
        report = ChunkReport(
            run_id=self.run_id,
            chunk=self.action.chunk_index if chunk is None else chunk,
            losses=np.array(losses, dtype=np.float64),
            feedback=feedback,
            applied=applied,
        )
        return convert.report_to_message(report)

    def send(self, request: pb.ReportChunkRequest) -> None:
        """Send a report by a call of its own, and take the next action."""
        self.take(self._calls.call(self._stub.ReportChunk, request).action)

    def take(self, action: pb.Action) -> None:
        """Go on under the next action."""
        self.action = action

    def finish(
        self, outcome: Outcome = Outcome.TERMINATED, *, final_score: float | None = None
    ) -> None:
        """End the run; the context manager does it where you do not."""
        finish = FinishRun(run_id=self.run_id, outcome=outcome, final_score=final_score)
        self._calls.call(self._stub.FinishRun, convert.finish_to_message(finish))
        self._is_finished = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_finished:
            return
        if kind is None:
            self.finish(Outcome.TERMINATED)
        else:
            is_user = issubclass(kind, KeyboardInterrupt)
            self.finish(Outcome.CANCELLED if is_user else Outcome.TRUNCATED)


def _detached(number: SupportsFloat) -> Any:
    """Return a tensor without its graph, so that a chunk holds no activations; others as is."""
    detach = getattr(number, "detach", None)
    return number if detach is None else detach()
