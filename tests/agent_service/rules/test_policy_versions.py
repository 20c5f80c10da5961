"""Policy versions: listed, compared, pinned, and rolled back to."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from agent_service.app import compare_policies, verify_store
from agent_service.cli.main import cli
from agent_service.client import (
    AgentClient,
    BayesianSettings,
    ConstantSettings,
    Mode,
    PPOSettings,
    RandomSettings,
    Reward,
)
from agent_service.domain.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from agent_service.learning.policy_file import from_bytes
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import DROPOUT, NOISE, spec
from tests.given import ServedAgent

SMALL = PPOSettings(rollout_size=8, batch_size=4, n_epochs=2, net_arch=(8,))
SPEC = spec(algorithm=SMALL, reward=Reward.VALIDATION, hyperparameters=(DROPOUT, NOISE))


def losses(chunk: int) -> list[float]:
    return [3.0 / chunk, 2.0 / chunk, 1.0, 0.5]


def train(
    client: AgentClient,
    run_id: str,
    *,
    chunks: int = 8,
    mode: Mode | None = None,
    policy_version: int = 0,
) -> list[dict[str, float]]:
    """Train a run; return its actions."""
    actions = []
    with client.run("c", run_id=run_id, mode=mode, policy_version=policy_version) as run:
        for chunk in range(1, chunks + 1):
            actions.append(run.hyperparameters)
            applied = {"dropout": 0.5, "noise": 0.5} if mode is Mode.SHADOW else None
            score = chunk / 10
            run.report_chunk(
                losses(chunk), training_score=0.5, validation_score=score, applied=applied
            )
    return actions


@pytest.fixture
def learned(served: ServedAgent, client: AgentClient) -> AgentClient:
    """The client of a server whose controller has the versions 1 to 3."""
    client.create_controller(SPEC)
    for number in range(2):
        train(client, f"r{number}")
        assert learn_once(served.store) == 1
    return client


def versions(client: AgentClient, controller: str = "c") -> list[pb.PolicyVersion]:
    return list(client.list_policy_versions(controller))


def run_command(served: ServedAgent, *words: str) -> str:
    shown = CliRunner().invoke(
        cli, [*words, "--agent", served.address], catch_exceptions=False, standalone_mode=False
    )
    return shown.output


def test_versions_tell_how_they_came_to_be(learned: AgentClient) -> None:
    """Newest first: when, from what, with which statistics, and how large the file is."""
    learned.import_policy("c", learned.export_policy("c", 2))

    listed = versions(learned)

    assert [v.version for v in listed] == [4, 3, 2, 1]
    assert [v.origin for v in listed] == [
        pb.ORIGIN_IMPORTED,
        pb.ORIGIN_LEARNED,
        pb.ORIGIN_LEARNED,
        pb.ORIGIN_INITIAL,
    ]
    assert [v.learned_transitions for v in listed] == [0, 8, 8, 0]
    assert [("approx_kl" in v.statistics) for v in listed] == [False, True, True, False]
    assert [len(learned.export_policy("c", v.version)) for v in listed] == [
        v.size_bytes for v in listed
    ]
    times = [v.create_time.ToNanoseconds() for v in listed]
    assert times == sorted(times, reverse=True)


def test_versions_are_listed_in_pages(learned: AgentClient) -> None:
    """Each once, whatever comes in between; the last page names no other."""
    request = pb.ListPolicyVersionsRequest(controller="c", page_size=2)
    first = learned._calls.call(learned._stub.ListPolicyVersions, request)
    learned.import_policy("c", learned.export_policy("c", 1))
    request.page_token = first.next_page_token
    last = learned._calls.call(learned._stub.ListPolicyVersions, request)

    assert [v.version for v in first.policy_versions] == [3, 2]
    assert [v.version for v in last.policy_versions] == [1]
    assert last.next_page_token == ""


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (pb.ListPolicyVersionsRequest(controller="missing"), NotFound),
        (pb.ListPolicyVersionsRequest(controller="fixed"), FailedPrecondition),
        (pb.ListPolicyVersionsRequest(controller="c", page_size=-1), InvalidArgument),
        (pb.ListPolicyVersionsRequest(controller="c", page_token="x"), InvalidArgument),
    ],
)
def test_a_wrong_list_is_refused(
    client: AgentClient, request_: pb.ListPolicyVersionsRequest, error: type[Exception]
) -> None:
    """No controller, one without a policy, a page that is none."""
    client.create_controller(SPEC)
    client.create_controller(spec("fixed", ConstantSettings(values={"dropout": 0.3})))

    with pytest.raises(error):
        client._calls.call(client._stub.ListPolicyVersions, request_)


# Pinning


@pytest.mark.parametrize("mode", [Mode.FROZEN, Mode.SHADOW])
def test_a_pinned_run_decides_by_its_version(
    served: ServedAgent, learned: AgentClient, mode: Mode
) -> None:
    """The mean actions of that version, though newer ones are there; and the log verifies."""
    policy = from_bytes(learned.export_policy("c", 2), SPEC)
    states = [[0.0] * 4, *(losses(chunk) for chunk in range(1, 5))]

    train(learned, "pinned", chunks=5, mode=mode, policy_version=2)

    log = list(learned.transitions(run_id="pinned"))
    means = [policy.mean(np.array(state)).tolist() for state in states]
    assert [list(t.sample) for t in log] == means
    assert {t.action.policy_version for t in log} == {2}
    assert learned.get_run("pinned").policy_version == 2
    verify_store(served.url)


def test_a_run_tells_the_version_that_it_keeps_to(learned: AgentClient) -> None:
    """A frozen run that of its start; a learning one none, since it follows the newest."""
    frozen = learned.run("c", run_id="frozen", mode=Mode.FROZEN)
    learned.run("c", run_id="learning")
    learned.import_policy("c", learned.export_policy("c", 1))
    frozen.report_chunk(losses(1), training_score=0.5, validation_score=0.5)

    assert learned.get_run("frozen").policy_version == 3
    assert frozen.action.policy_version == 3
    assert learned.get_run("learning").policy_version == 0


def test_a_pinned_start_is_repeated_with_its_version(learned: AgentClient) -> None:
    """The same again gets the same; another version, or none, is another start."""
    first = learned.run("c", run_id="r", mode=Mode.FROZEN, policy_version=2).action
    newest = learned.run("c", run_id="newest", mode=Mode.FROZEN).action

    assert learned.run("c", run_id="r", mode=Mode.FROZEN, policy_version=2).action == first
    for other in (0, 1, 3):
        with pytest.raises(AlreadyExists):
            learned.run("c", run_id="r", mode=Mode.FROZEN, policy_version=other)
    # The newest then was asked for, not version 3, which that was.
    learned.import_policy("c", learned.export_policy("c", 1))
    assert learned.run("c", run_id="newest", mode=Mode.FROZEN).action == newest
    with pytest.raises(AlreadyExists):
        learned.run("c", run_id="newest", mode=Mode.FROZEN, policy_version=3)


@pytest.mark.parametrize(
    ("controller", "mode", "version", "error"),
    [
        ("c", Mode.FROZEN, 2, NotFound),
        ("c", Mode.FROZEN, 2**62, NotFound),
        ("c", Mode.FROZEN, -1, InvalidArgument),
        ("c", Mode.LEARNING, 1, InvalidArgument),
        ("c", None, 1, InvalidArgument),
        ("fixed", Mode.FROZEN, 1, InvalidArgument),
    ],
)
def test_a_version_that_cannot_be_kept_to_is_refused(
    client: AgentClient,
    controller: str,
    mode: Mode | None,
    version: int,
    error: type[NotFound | InvalidArgument],
) -> None:
    """One that is not there, a learning run, a controller without a policy: no run is made."""
    client.create_controller(SPEC)
    client.create_controller(spec("fixed", RandomSettings()))

    with pytest.raises(error, match=r"policy.version") as raised:
        client.run(controller, run_id="r", mode=mode, policy_version=version)

    if isinstance(raised.value, InvalidArgument):
        assert [v.field for v in raised.value.violations] == ["policy_version"]
    assert list(client.list_runs()) == []


def test_a_run_of_a_frozen_controller_may_be_pinned(learned: AgentClient) -> None:
    """It is frozen without saying so."""
    learned.set_mode("c", Mode.FROZEN)

    assert learned.run("c", policy_version=1).action.policy_version == 1


def test_a_pinned_bayesian_run_takes_the_best_of_then(
    served: ServedAgent, client: AgentClient
) -> None:
    """Version 2 knows one trial, whatever was better later."""
    client.create_controller(spec(algorithm=BayesianSettings()))
    values = []
    for number in range(3):
        run = client.run("c", run_id=f"r{number}")
        values.append(run.hyperparameters)
        run.finish(final_score=number)

    pinned = client.run("c", run_id="pinned", mode=Mode.FROZEN, policy_version=2)

    assert pinned.hyperparameters == values[0]
    assert client.run("c", run_id="newest", mode=Mode.FROZEN).hyperparameters == values[2]
    assert verify_store(served.url) == 5


# Comparing


def test_two_versions_differ_where_their_means_do(learned: AgentClient) -> None:
    """By the mean and the largest distance, in each hyperparameter's own unit, on whole runs."""
    one, other = (from_bytes(learned.export_policy("c", version), SPEC) for version in (1, 3))
    log = list(learned.transitions())
    means = np.array(
        [[policy.mean(np.array(t.state)) for policy in (one, other)] for t in log]
    ).clip(-1, 1)
    distances = abs(means[:, 0] - means[:, 1]) / 2 * [DROPOUT.high, NOISE.high - NOISE.low]

    found, states = compare_policies(learned, "c", 1, 3, transitions=9)

    assert states == len(log) == 16
    assert [d.hyperparameter for d in found] == ["dropout", "noise"]
    assert [d.mean for d in found] == pytest.approx(distances.mean(axis=0))
    assert [d.largest for d in found] == pytest.approx(distances.max(axis=0))
    for place, d in enumerate(found):
        # Both runs went through the same states.
        assert d.run_id in ("r0", "r1")
        assert d.chunk == log[int(distances[:, place].argmax())].chunk_index
        assert abs(d.one - d.other) == d.largest > 0


def test_the_newest_runs_are_enough(learned: AgentClient) -> None:
    """As many as have the transitions that were asked for; a version never differs from itself."""
    found, states = compare_policies(learned, "c", 2, 2, transitions=8)

    assert states == 8
    assert [(d.mean, d.largest) for d in found] == [(0, 0), (0, 0)]


def test_bayesian_versions_differ_by_their_best_values(client: AgentClient) -> None:
    """A run would have kept either, so the mean is the largest."""
    client.create_controller(spec(algorithm=BayesianSettings()))
    values = []
    for number in range(2):
        run = client.run("c")
        values.append(run.hyperparameters["dropout"])
        for chunk in range(1, 4):
            run.report_chunk(losses(chunk), training_score=0.5, validation_score=0.5)
        run.finish(final_score=number)

    (found,), states = compare_policies(client, "c", 2, 3, transitions=1000)

    assert states == 6
    assert found.mean == pytest.approx(abs(values[0] - values[1]))
    assert found.largest == pytest.approx(found.mean)


def test_what_cannot_be_compared_is_said(learned: AgentClient) -> None:
    """No such version; no policy at all; nothing to compare on."""
    learned.create_controller(spec("new", SMALL))
    learned.create_controller(spec("fixed", RandomSettings()))

    for name, other, error in (("c", 9, NotFound), ("fixed", 1, FailedPrecondition)):
        with pytest.raises(error):
            compare_policies(learned, name, 1, other, transitions=10)
    with pytest.raises(NotFound, match="no transition yet"):
        compare_policies(learned, "new", 1, 1, transitions=10)


# Rolling back, and the commands


def test_learning_goes_on_from_what_was_rolled_back_to(
    served: ServedAgent, learned: AgentClient
) -> None:
    """A new version with the old weights decides, and the next update starts from them."""
    learned.run("c", run_id="live")

    said = run_command(served, "rollback", "c", "1")

    assert said == "policy version 4, as version 1\n"
    assert learned.export_policy("c", 4) == learned.export_policy("c", 1)
    assert learned.run("c", mode=Mode.FROZEN).action.policy_version == 4
    train(learned, "more")
    assert learn_once(served.store) == 1
    newest = versions(learned)[0]
    assert (newest.version, newest.origin) == (5, pb.ORIGIN_LEARNED)
    old, new = (from_bytes(learned.export_policy("c", version), SPEC) for version in (1, 5))
    steps = "optimizer.log_std.step"
    assert new.arrays[steps] == old.arrays[steps] + 4, "two epochs of two minibatches"
    verify_store(served.url)


def test_rolling_back_to_the_newest_changes_nothing(
    served: ServedAgent, learned: AgentClient
) -> None:
    """It is there already; and twice is once."""
    assert run_command(served, "rollback", "c", "3") == "policy version 3, as version 3\n"
    for _ in range(2):
        assert run_command(served, "rollback", "c", "2") == "policy version 4, as version 2\n"
    assert [v.version for v in versions(learned)] == [4, 3, 2, 1]


def test_the_policies_command_shows_a_line_a_version(
    served: ServedAgent, learned: AgentClient
) -> None:
    """With its origin, its size and its statistics."""
    lines = run_command(served, "policies", "c").splitlines()

    assert [line.split("\t")[:2] for line in lines] == [
        ["version 3", "learned"],
        ["version 2", "learned"],
        ["version 1", "initial"],
    ]
    assert "8 transitions" in lines[0]
    assert "approx_kl=" in lines[0]
    assert f"{len(learned.export_policy('c', 1))} bytes" in lines[2]


def test_the_comparison_command_shows_both(served: ServedAgent, learned: AgentClient) -> None:
    """A line for each hyperparameter, then one for each statistic."""
    learned.import_policy("c", learned.export_policy("c", 1))

    lines = run_command(served, "compare-policies", "c", "3", "4").splitlines()

    table = [line.split("\t") for line in lines]
    assert table[0] == ["on 16 states", "mean", "largest", "there 3", "there 4", "where"]
    assert [row[0] for row in table[1:3]] == ["dropout", "noise"]
    assert table[3] == ["statistic", "3", "4"]
    assert table[4][0] == "approx_kl"
    assert table[4][2] == "-"
    assert float(table[4][1]) == pytest.approx(versions(learned)[1].statistics["approx_kl"], 1e-3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("serve --tls-key x --lease nan", "'--lease': nan is not finite"),
        ("serve --tls-key x --lease 1e23", "'--lease': 1e+23 is not in the range"),
        ("export c f --policy-version -1", "'--policy-version': -1 is not in the range"),
        ("rollback c two", "'VERSION': 'two' is not a whole number of 1 or more"),
        ("export c no/f", "'PATH': 'no/f': its folder does not exist; create it first"),
        ("transitions --output no/f", "'--output': 'no/f': its folder does not exist"),
        ("prune --archive a --older-than 99999999w", "'--older-than': '99999999w' is not an age"),
        (f"prune --archive a --older-than {'9' * 400}s", "characters)' is not an age"),
    ],
)
def test_what_cannot_be_taken_is_refused_by_its_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, says: str
) -> None:
    """As bad usage; nothing is made."""
    monkeypatch.chdir(tmp_path)

    shown = CliRunner().invoke(cli, words.split())

    assert shown.exit_code == 2
    assert says in shown.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [("rollback", "c", "{}"), ("export", "c", "f", "--policy-version={}")]
)
def test_a_number_that_no_message_holds_is_told_in_a_line(words: tuple[str, ...]) -> None:
    """Not by a traceback; nothing is asked of the service."""
    command = [sys.executable, "-m", "agent_service", *(w.format(2**70) for w in words)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"{2**70}: this number is out of range" in done.stderr
