"""A diverged run: the action whose chunk never ended earns the worst reward, as its last."""

import pytest

from agent_service.app import verify_store
from agent_service.client import AgentClient, Mode, Outcome, PPOSettings, RandomSettings, Reward
from agent_service.domain.errors import AlreadyExists, InvalidArgument
from agent_service.learning.rollout import segments
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.calls import LOSSES, Call, report
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import spec
from tests.given import ServedAgent


def diverge(client: AgentClient, *, chunks: int, mode: Mode | None = None) -> None:
    with client.run("c", run_id="r", mode=mode) as run:
        report(run, chunks, validation=0.75)
        run.finish(Outcome.DIVERGED)


@pytest.mark.parametrize(
    ("reward", "worst"),
    [(Reward.GAP, -1.0), (Reward.VALIDATION, 0.0), (Reward.IMPROVEMENT, -1.0)],
)
def test_the_last_action_earns_the_worst_reward(
    client: AgentClient, call: Call, reward: Reward, worst: float
) -> None:
    """The transition of the chunk without a report has its state and action, and no next losses.

    A repeated finish adds no other one.
    """
    client.create_controller(spec(reward=reward))
    diverge(client, chunks=2)
    call(pb.FinishRunRequest(run_id="r", outcome=pb.OUTCOME_DIVERGED))

    log = list(client.transitions())
    last = log[-1]
    assert [t.chunk_index for t in log] == [1, 2, 3]
    assert [t.position for t in log] == sorted(t.position for t in log)
    assert (last.reward, list(last.state), list(last.next_state)) == (worst, LOSSES, [0.0] * 4)
    assert not last.HasField("scores")
    assert 0 <= last.action.values["dropout"] <= 0.9
    assert {t.use for t in log} == {pb.USE_READY}
    assert client.get_run("r").action.chunk_index == 3


def test_a_spec_may_name_another_reward(client: AgentClient) -> None:
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
    """The last report ends the episode then, unless the spec names a reward."""
    client.create_controller(spec(reward=Reward.GIVEN))
    run = client.run("c", run_id="r")
    run.report_reward(LOSSES, 0.5)
    run.finish(Outcome.DIVERGED)

    assert [t.reward for t in client.transitions()] == [0.5]


def test_the_episode_ends_with_it(served: ServedAgent, client: AgentClient) -> None:
    """Nothing bootstraps after it, the chunks before are of its segment, and it is learned from."""
    small = PPOSettings(rollout_size=4, batch_size=2, n_epochs=1, net_arch=(8,))
    client.create_controller(spec(algorithm=small))
    diverge(client, chunks=3)
    controller = served.store.read(lambda session: session.find_controller("c"))
    assert controller is not None
    ready = served.store.read(lambda session: session.ready_transitions(controller, limit=9))

    assert [t.ends_episode for t in ready] == [False, False, False, True]
    (segment,) = segments(ready, controller.spec)
    assert segment.terminated
    assert segment.rewards.tolist() == [0.25, 0.25, 0.25, -1.0]
    assert learn_once(served.store) == 1
    assert {t.use for t in client.transitions()} == {pb.USE_LEARNED}
    assert verify_store(served.url) == 5


@pytest.mark.parametrize("is_frozen", [True, False])
def test_a_frozen_runs_and_a_baselines_is_only_recorded(
    served: ServedAgent, client: AgentClient, is_frozen: bool
) -> None:
    """In the log, and in the count of transitions."""
    client.create_controller(spec(algorithm=None if is_frozen else RandomSettings()))
    diverge(client, chunks=1, mode=Mode.FROZEN if is_frozen else None)

    assert {t.use for t in client.transitions()} == {pb.USE_RECORDED}
    recorded = served.registry.get_sample_value(
        "agent_transitions_total", {"controller": "c", "use": "recorded"}
    )
    assert recorded == 2
