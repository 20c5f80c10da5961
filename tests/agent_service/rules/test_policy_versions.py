"""Policy versions: listed, compared, pinned, and rolled back to."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from agent_service.app import compare_policies, verify_store
from agent_service.cli.main import cli
from agent_service.client import (
    AgentClient,
    BayesianSettings,
    Mode,
    PPOSettings,
    RandomSettings,
    Reward,
)
from agent_service.domain.errors import FailedPrecondition, InvalidArgument, NotFound
from agent_service.learning.policy_file import from_bytes
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.calls import Call, report
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import DROPOUT, NOISE, spec
from tests.given import ServedAgent, run_command

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
) -> None:
    with client.run("c", run_id=run_id, mode=mode, policy_version=policy_version) as run:
        applied = {"dropout": 0.5, "noise": 0.5} if mode is Mode.SHADOW else None
        for chunk in range(1, chunks + 1):
            run.report_chunk(
                losses(chunk), training_score=0.5, validation_score=chunk / 10, applied=applied
            )


@pytest.fixture
def learned(served: ServedAgent, client: AgentClient) -> AgentClient:
    """The client of a server whose controller has the versions 1 to 3."""
    client.create_controller(SPEC)
    for number in range(2):
        train(client, f"r{number}")
        assert learn_once(served.store) == 1
    return client


def versions(client: AgentClient) -> list[pb.PolicyVersion]:
    return list(client.list_policy_versions("c"))


def command(served: ServedAgent, *words: str) -> list[str]:
    """Return the lines that a command prints."""
    shown = run_command("agent_service", *words, "--agent", served.address)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout.splitlines()


def test_versions_tell_their_origin(learned: AgentClient, call: Call) -> None:
    """Newest first, in pages: when, from what, with which statistics, and how large the file is."""
    request = pb.ListPolicyVersionsRequest(controller="c", page_size=2)
    first = call(request)
    learned.import_policy("c", learned.export_policy("c", 2))
    request.page_token = first.next_page_token
    last = call(request)
    assert [v.version for v in (*first.policy_versions, *last.policy_versions)] == [3, 2, 1]
    assert last.next_page_token == ""

    listed = versions(learned)
    assert [(v.version, v.origin, v.learned_transitions) for v in listed] == [
        (4, pb.ORIGIN_IMPORTED, 0),
        (3, pb.ORIGIN_LEARNED, 8),
        (2, pb.ORIGIN_LEARNED, 8),
        (1, pb.ORIGIN_INITIAL, 0),
    ]
    assert [("approx_kl" in v.statistics) for v in listed] == [False, True, True, False]
    for version in listed:
        assert len(learned.export_policy("c", version.version)) == version.size_bytes
    times = [v.create_time.ToNanoseconds() for v in listed]
    assert times == sorted(times, reverse=True)


# Pinning


@pytest.mark.parametrize("mode", [Mode.FROZEN, Mode.SHADOW])
def test_a_pinned_run_decides_by_its_version(
    served: ServedAgent, learned: AgentClient, mode: Mode
) -> None:
    """The mean actions of that version, though newer ones exist; and the log verifies."""
    policy = from_bytes(learned.export_policy("c", 2), SPEC)
    states = [[0.0] * 4, *(losses(chunk) for chunk in range(1, 5))]

    train(learned, "pinned", chunks=5, mode=mode, policy_version=2)

    log = list(learned.transitions(run_id="pinned"))
    means = [policy.mean(np.array(state)).tolist() for state in states]
    assert [list(t.sample) for t in log] == means
    assert {t.action.policy_version for t in log} == {2}
    assert learned.get_run("pinned").policy_version == 2
    assert learned.get_run("r0").policy_version == 0, "a learning run follows the newest"
    verify_store(served.url)


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
def test_some_versions_cannot_be_pinned(
    client: AgentClient,
    controller: str,
    mode: Mode | None,
    version: int,
    error: type[NotFound | InvalidArgument],
) -> None:
    """One that does not exist, of a learning run, or of a controller without a policy."""
    client.create_controller(SPEC)
    client.create_controller(spec("fixed", RandomSettings()))

    with pytest.raises(error, match=r"policy.version") as raised:
        client.run(controller, run_id="r", mode=mode, policy_version=version)

    if isinstance(raised.value, InvalidArgument):
        assert [v.field for v in raised.value.violations] == ["policy_version"]
    assert list(client.list_runs()) == []


def test_a_pinned_bayesian_run_takes_its_versions_best(
    served: ServedAgent, client: AgentClient
) -> None:
    """Version 2 knows one trial, whatever was better later; versions differ by their best."""
    client.create_controller(spec(algorithm=BayesianSettings()))
    values = []
    for number in range(3):
        with client.run("c", run_id=f"r{number}") as run:
            values.append(run.hyperparameters)
            report(run)
            run.finish(final_score=number)

    pinned = client.run("c", run_id="pinned", mode=Mode.FROZEN, policy_version=2)

    assert pinned.hyperparameters == values[0]
    assert client.run("c", run_id="newest", mode=Mode.FROZEN).hyperparameters == values[2]
    assert verify_store(served.url) == 8
    (found,), states = compare_policies(client, "c", 2, 3, transitions=1000)
    assert states == 3
    distance = abs(values[0]["dropout"] - values[1]["dropout"])
    assert found.mean == pytest.approx(distance)
    assert found.largest == pytest.approx(distance)


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
    same, states = compare_policies(learned, "c", 2, 2, transitions=8)
    assert states == 8, "the newest run is enough"
    assert [(d.mean, d.largest) for d in same] == [(0, 0), (0, 0)]


def test_some_versions_cannot_be_compared(learned: AgentClient) -> None:
    """No such version, no policy at all, or nothing to compare on."""
    learned.create_controller(spec("new", SMALL))
    learned.create_controller(spec("fixed", RandomSettings()))

    for name, other, error in (("c", 9, NotFound), ("fixed", 1, FailedPrecondition)):
        with pytest.raises(error):
            compare_policies(learned, name, 1, other, transitions=10)
    with pytest.raises(NotFound, match="no transition yet"):
        compare_policies(learned, "new", 1, 1, transitions=10)


# Rolling back, and the commands


def test_learning_goes_on_from_a_rollback(served: ServedAgent, learned: AgentClient) -> None:
    """A new version with the old weights decides, and the next update starts from them."""
    for _ in range(2):  # repeated, it changes nothing
        assert command(served, "rollback", "c", "1") == ["policy version 4, as version 1"]
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


def test_the_commands_list_and_compare_versions(served: ServedAgent, learned: AgentClient) -> None:
    """A line for each version; for two of them, one for each hyperparameter and statistic."""
    lines = command(served, "policies", "c")
    assert [line.split("\t")[:2] for line in lines] == [
        ["version 3", "learned"],
        ["version 2", "learned"],
        ["version 1", "initial"],
    ]
    assert "8 transitions" in lines[0]
    assert "approx_kl=" in lines[0]
    assert f"{len(learned.export_policy('c', 1))} bytes" in lines[2]

    table = [line.split("\t") for line in command(served, "compare-policies", "c", "3", "1")]
    assert table[0] == ["on 16 states", "mean", "largest", "there 3", "there 1", "where"]
    assert [row[0] for row in table[1:3]] == ["dropout", "noise"]
    assert table[3] == ["statistic", "3", "1"]
    assert (table[4][0], table[4][2]) == ("approx_kl", "-")
    assert float(table[4][1]) == pytest.approx(versions(learned)[0].statistics["approx_kl"], 1e-3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("serve --tls-key x --lease nan", "'--lease': nan is not finite"),
        ("serve --tls-key x --lease 1e23", "'--lease': 1e+23 is not in the range"),
        ("export c f --policy-version -1", "'--policy-version': -1 is not in the range"),
        ("rollback c two", "'VERSION': 'two' is not a whole number of 1 or more"),
        ("export c no/f", "'PATH': 'no/f': its folder does not exist; create it first"),
        ("transitions --output no/f", "'--output': 'no/f': its folder does not exist"),
        ("prune --archive a --older-than 30", "'--older-than': '30' is not an age; write e.g. 30d"),
        ("prune --archive a --older-than -1d", "'--older-than': '-1d' is not an age"),
        ("prune --archive a --older-than 99999999w", "'--older-than': '99999999w' is not an age"),
        (f"prune --archive a --older-than {'9' * 400}s", "characters)' is not an age"),
    ],
)
def test_a_wrong_value_is_refused_by_its_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, says: str
) -> None:
    """As bad usage; nothing is made."""
    monkeypatch.chdir(tmp_path)

    shown = CliRunner().invoke(cli, words.split())

    assert shown.exit_code == 2
    assert says in shown.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["rollback c {}", "export c f --policy-version={}"])
def test_a_number_beyond_the_contracts_is_refused_in_one_line(words: str) -> None:
    """Not by a traceback; nothing is asked of the service."""
    shown = run_command("agent_service", *words.format(2**70).split())

    assert shown.returncode == 2
    assert len(shown.stderr.splitlines()) == 1
    assert f"{2**70}: this number is out of range" in shown.stderr
