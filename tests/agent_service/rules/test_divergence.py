"""A diverged run: the action whose chunk never ended earns the worst reward, as its last."""

import pytest

from agent_service.app import verify_store
from agent_service.client import AgentClient, Mode, Outcome, PPOSettings, RandomSettings, Reward
from agent_service.domain.errors import AlreadyExists, InvalidArgument
from agent_service.learning.rollout import segments
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import spec
from tests.given import ServedAgent

LOSSES = [2.0, 1.5, 1.25, 1.0]


def diverge(client: AgentClient, *, chunks: int, mode: Mode | None = None) -> None:
    with client.run("c", run_id="r", mode=mode) as run:
        for _ in range(chunks):
            run.report_chunk(LOSSES, training_score=0.5, validation_score=0.75)
        run.finish(Outcome.DIVERGED)


@pytest.mark.parametrize(
    ("reward", "worst"),
    [(Reward.GAP, -1.0), (Reward.VALIDATION, 0.0), (Reward.IMPROVEMENT, -1.0)],
)
def test_the_last_action_earns_the_worst_reward(
    client: AgentClient, reward: Reward, worst: float
) -> None:
    """The transition of the chunk that has no report: its state and action, and no next losses."""
    client.create_controller(spec(reward=reward))
    diverge(client, chunks=2)

    log = list(client.transitions())
    last = log[-1]
    assert [t.chunk_index for t in log] == [1, 2, 3]
    assert [t.position for t in log] == sorted(t.position for t in log)
    assert (last.reward, list(last.state), list(last.next_state)) == (worst, LOSSES, [0.0] * 4)
    assert not last.HasField("scores")
    assert 0 <= last.action.values["dropout"] <= 0.9
    assert {t.use for t in log} == {pb.USE_READY}


def test_a_spec_may_say_another_reward(client: AgentClient) -> None:
    """It comes back with the spec, and is part of what makes two specs differ."""
    client.create_controller(spec(diverged_reward=-5.0))
    diverge(client, chunks=0)

    assert [t.reward for t in client.transitions()] == [-5.0]
    assert client.get_controller("c").spec.diverged_reward == -5.0
    with pytest.raises(AlreadyExists):
        client.create_controller(spec())
    with pytest.raises(InvalidArgument, match=r"diverged_reward"):
        spec(diverged_reward=float("nan"))


def test_a_given_reward_has_no_worst(client: AgentClient) -> None:
    """There the last report ends the episode, unless the spec says a reward."""
    client.create_controller(spec(reward=Reward.GIVEN))
    run = client.run("c", run_id="r")
    run.report_reward(LOSSES, 0.5)
    run.finish(Outcome.DIVERGED)

    assert [t.reward for t in client.transitions()] == [0.5]


def test_the_episode_ends_with_it(served: ServedAgent, client: AgentClient) -> None:
    """Nothing bootstraps after the diverged chunk, and the chunks before belong to one segment."""
    client.create_controller(spec())
    diverge(client, chunks=3)
    controller = served.store.read(lambda session: session.find_controller("c"))
    assert controller is not None
    ready = served.store.read(lambda session: session.ready_transitions(controller, limit=9))

    assert [t.ends_episode for t in ready] == [False, False, False, True]
    (segment,) = segments(ready)
    assert segment.terminated
    assert segment.rewards.tolist() == [0.25, 0.25, 0.25, -1.0]


def test_it_is_learned_from(served: ServedAgent, client: AgentClient) -> None:
    """An update consumes it as any other, and the log verifies."""
    small = PPOSettings(rollout_size=4, batch_size=2, n_epochs=1, net_arch=(8,))
    client.create_controller(spec(algorithm=small))
    diverge(client, chunks=3)

    assert learn_once(served.store) == 1
    assert {t.use for t in client.transitions()} == {pb.USE_LEARNED}
    assert verify_store(served.url) == 5


def test_a_repeated_finish_ends_it_once(client: AgentClient) -> None:
    """And the run stands where it stood: at the action whose chunk diverged."""
    client.create_controller(spec())
    diverge(client, chunks=1)
    before = client.get_run("r")

    request = pb.FinishRunRequest(run_id="r", outcome=pb.OUTCOME_DIVERGED)
    client._calls.call(client._stub.FinishRun, request)

    assert client.get_run("r") == before
    assert before.action.chunk_index == 2
    assert len(list(client.transitions())) == 2


@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_not_learned_from_is_recorded(
    served: ServedAgent, client: AgentClient, frozen: bool
) -> None:
    """A frozen run's, and a baseline's."""
    client.create_controller(spec(algorithm=None if frozen else RandomSettings()))
    diverge(client, chunks=1, mode=Mode.FROZEN if frozen else None)

    assert {t.use for t in client.transitions()} == {pb.USE_RECORDED}
    recorded = served.registry.get_sample_value(
        "agent_transitions_total", {"controller": "c", "use": "recorded"}
    )
    assert recorded == 2
