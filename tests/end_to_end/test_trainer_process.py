"""The trainer service: queue, states, events, ends, commands."""

import math
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent_service.client import AgentClient
from agent_service.domain.errors import AlreadyExists, InvalidArgument, NotFound
from agent_service.domain.problem import Problem
from agent_service.v1 import agent_pb2
from agent_service.wire import convert
from tests.end_to_end.contracts import CLIENT_ERRORS, codes_of_empty_calls
from tests.end_to_end.processes import AgentProcess, wait_for
from tests.end_to_end.runs import controller, wait_for_chunks
from tests.given import ServedTrainer, run_command
from tests.trainer_service.specs import ENDLESS, new_child, run_spec
from trainer_service.client import TrainerClient
from trainer_service.runs.run import (
    ChunkTrained,
    Event,
    Finished,
    Planned,
    RunSpec,
    RunState,
    StateChanged,
)
from trainer_service.training.spec import Method
from trainer_service.v1 import trainer_pb2 as pb


@pytest.fixture
def client(trainer: ServedTrainer) -> Iterator[TrainerClient]:
    with TrainerClient(trainer.address, budget_seconds=10) as client:
        yield client


@pytest.fixture(scope="module")
def controllers(agent: AgentProcess) -> Iterator[AgentClient]:
    """A client of the agent that has a controller that learns, `learns`."""
    with AgentClient(agent.address, budget_seconds=10) as client:
        client.create_controller(controller("learns", rollout_size=4, batch_size=2, n_epochs=1))
        yield client


def states(events: list[Event]) -> list[RunState]:
    return [e.what.state for e in events if isinstance(e.what, StateChanged)]


def end_of(client: TrainerClient, run_id: str) -> list[Event]:
    """Follow a run to its end; return its events."""
    return list(client.watch(run_id))


def test_a_run_goes_from_the_queue_to_its_result(client: TrainerClient) -> None:
    """All watchers, live or late, see the same events, numbered without gaps.

    The same submission again answers the run that is there; another spec is refused.
    """
    client.submit("whole", run_spec())
    with ThreadPoolExecutor(2) as pool:
        live = list(pool.map(lambda _: end_of(client, "whole"), range(2)))
    events = end_of(client, "whole")
    kinds = [type(e.what) for e in events]
    run = client.submit("whole", run_spec())

    assert live == [events, events]
    assert list(client.watch("whole", after=5)) == events[5:]
    assert list(client.watch("whole", after=len(events))) == []
    assert states(events) == [RunState.QUEUED, RunState.RUNNING, RunState.SUCCEEDED]
    assert kinds == [StateChanged] * 2 + [Planned] + [ChunkTrained] * 3 + [Finished, StateChanged]
    assert [e.index for e in events] == list(range(1, 9))
    assert (run.state, run.trained_chunks, run.planned_chunks) == (pb.RUN_STATE_SUCCEEDED, 3, 3)
    assert 0 <= run.result.test_score_best <= 1
    with pytest.raises(AlreadyExists, match="choose another id"):
        client.submit("whole", run_spec(seed=1))


def test_every_call_of_the_contract_is_served(client: TrainerClient) -> None:
    """An empty request is answered, or refused as the caller's error: no RPC is a stub."""
    codes = codes_of_empty_calls(pb.DESCRIPTOR.services_by_name["TrainerService"], client._stub)

    assert len(codes) == 8
    assert set(codes.values()) <= CLIENT_ERRORS, codes


def test_a_reinforced_run_trains_under_the_agents_actions(
    client: TrainerClient, controllers: AgentClient
) -> None:
    """Each chunk ran under the action decided for it, and its losses are the agent's next state."""
    client.submit("reinforced", run_spec(Method.RD, controller="learns"))
    chunks = [e.what for e in end_of(client, "reinforced") if isinstance(e.what, ChunkTrained)]
    log = list(controllers.transitions(run_id="reinforced"))
    run = controllers.get_run("reinforced")

    assert len(chunks) == len(log) == 3
    for trained, transition in zip(chunks, log, strict=True):
        assert transition.chunk_index == trained.chunk.index
        assert dict(transition.action.values) == pytest.approx(trained.chunk.values, rel=1e-6)
        assert tuple(transition.next_state) == trained.chunk.losses
        assert transition.scores.training == trained.chunk.training_score
        assert transition.scores.validation == trained.chunk.validation_score
        assert transition.action.policy_version == trained.policy_version
        assert trained.agent_seconds > 0
    assert run.outcome == agent_pb2.OUTCOME_TERMINATED
    assert run.final_score == client.get("reinforced").result.validation_score_best
    assert dict(run.labels) == {"method": "rd", "seed": "0"}
    assert run.planned_chunks == run.reported_chunks
    child = new_child(method=Method.RD)
    weights = child.passes.child.parameters()
    assert convert.problem_from_message(run.problem) == Problem(
        classes=10,
        training_samples=64,
        batch_size=16,
        learning_rate=1e-3,
        parameters=sum(w.numel() for w in weights),
        sites=5,  # after each stage, and before the classifier
    )


def test_a_run_id_is_well_formed_and_known(client: TrainerClient) -> None:
    """Refused by its field, or not found; nothing is queued."""
    before = list(client.list())

    with pytest.raises(InvalidArgument, match="run_id"):
        client.submit("../x", run_spec())
    for call in (client.get, client.cancel, lambda run_id: end_of(client, run_id)):
        with pytest.raises(NotFound, match="'nobody'"):
            call("nobody")
    assert list(client.list()) == before


def test_cancelled_runs_end_wherever_they_are(
    trainer: ServedTrainer, client: TrainerClient, controllers: AgentClient
) -> None:
    """A training run ends and tells the agent; a waiting one never starts; again is no error."""
    client.submit("training", run_spec(Method.RD, controller="learns", chunks=ENDLESS))
    client.submit("waiting", run_spec())
    wait_for_chunks(client, ["training"])
    device = client.device()

    for _ in range(2):
        assert client.cancel("waiting").state == pb.RUN_STATE_CANCELLED
        client.cancel("training")

    assert (device.running, device.queued) == (1, 1)
    assert states(end_of(client, "training"))[-1] is RunState.CANCELLED
    assert states(end_of(client, "waiting")) == [RunState.QUEUED, RunState.CANCELLED]
    assert controllers.get_run("training").outcome == agent_pb2.OUTCOME_CANCELLED
    check_watch(trainer, "waiting", "cancelled")


def is_refused(client: TrainerClient, spec: RunSpec) -> bool:
    """Whether a submission is refused; one that is not leaves a cancelled or failed run."""
    run_id = f"tried-{uuid4().hex}"
    with suppress(InvalidArgument):
        client.submit(run_id, spec)
        client.cancel(run_id)
        end_of(client, run_id)
        return False
    return True


def test_a_run_under_a_controller_that_is_not_there_is_refused(
    client: TrainerClient, controllers: AgentClient
) -> None:
    """By field and name, and nothing is queued; a run that is there is answered all the same."""
    controllers.create_controller(controller("short-lived"))
    spec = run_spec(Method.RD, controller="short-lived", chunks=1)
    client.submit("early", spec)
    end_of(client, "early")
    controllers.delete_controller("short-lived")
    # On a busy machine the agent may have answered an earlier submission too late.
    wait_for(lambda: is_refused(client, run_spec(Method.RD, controller="never-there")))

    for _ in range(2):
        with pytest.raises(InvalidArgument, match="'short-lived' is not at the agent") as raised:
            client.submit("late", spec)
        assert [v.field for v in raised.value.violations] == ["spec.controller"]
    with pytest.raises(NotFound):
        client.get("late")
    assert client.submit("early", spec).state == pb.RUN_STATE_SUCCEEDED


@pytest.mark.parametrize(
    ("name", "spec", "cause"),
    [
        ("no-data", run_spec(dataset="npz:missing"), "missing.npz"),
        ("batch-of-one", run_spec(batch_size=1), "batch_size: a batch has 1 image, and layer4"),
    ],
)
def test_a_run_that_cannot_train_fails_with_its_cause(
    trainer: ServedTrainer, client: TrainerClient, name: str, spec: RunSpec, cause: str
) -> None:
    """The cause says what is missing, and the next run trains."""
    client.submit(name, spec)
    client.submit(f"after-{name}", run_spec(chunks=1))

    assert states(end_of(client, name)) == [RunState.QUEUED, RunState.RUNNING, RunState.FAILED]
    check_watch(trainer, name, cause)
    assert states(end_of(client, f"after-{name}"))[-1] is RunState.SUCCEEDED


def check_watch(trainer: ServedTrainer, run_id: str, cause: str) -> None:
    """Check that the command fails for a run that did, as scripts need it to."""
    shown = run_command("trainer_service", "watch", run_id, "--trainer", trainer.address)
    check_failure(shown, 1, cause)
    assert shown.stderr.startswith(f"trainer-service: run {run_id}: ")


def test_a_run_whose_losses_overflow_ends_as_diverged(
    client: TrainerClient, controllers: AgentClient
) -> None:
    """It succeeds with a result that says so, and the agent hears of it."""
    spec = run_spec(Method.RD, controller="learns", chunks=50, learning_rate=1e30)
    client.submit("diverges", spec)
    end_of(client, "diverges")
    run = client.get("diverges")

    assert run.state == pb.RUN_STATE_SUCCEEDED
    assert run.result.diverged
    assert run.trained_chunks < 50
    assert math.isfinite(run.result.test_score_best)
    assert controllers.get_run("diverges").outcome == agent_pb2.OUTCOME_DIVERGED


def test_the_metrics_page_counts_images_and_forgets_runs(
    trainer: ServedTrainer, client: TrainerClient
) -> None:
    """Each image of training and validation is counted; an ended run leaves no series."""

    def page() -> dict[str, float]:
        with urlopen(trainer.metrics) as response:
            families = text_string_to_metric_families(response.read().decode())
            return {
                f"{s.name}{list(s.labels.values())}": s.value for f in families for s in f.samples
            }

    def images(split: str) -> float:
        return page().get(f"trainer_images_total['{split}']", 0.0)

    before = (images("train"), images("validation"))
    client.submit("counted", run_spec(Method.D, chunks=3))
    end_of(client, "counted")
    assert images("train") - before[0] == 3 * 4 * 16
    assert images("validation") - before[1] == 3 * 3 * 16
    assert not [series for series in page() if series.startswith("trainer_run_")]
    assert page()["trainer_runs['running']"] == 0


def test_the_commands_drive_a_run(trainer: ServedTrainer) -> None:
    """submit, watch, runs, cancel and health, as a person types them."""

    def command(*words: str) -> str:
        shown = run_command("trainer_service", *words, "--trainer", trainer.address)
        assert shown.returncode == 0, shown.stderr
        return shown.stdout

    small = "--subset 64 --model resnet18 --width 0.0625 --batch-size 16 --chunk-size 4"
    options = [*small.split(), "--chunks", "2", "--method", "d", "--value", "dropout=0.3"]

    assert "watch by-hand" in command("submit", "by-hand", *options)
    lines = command("watch", "by-hand").splitlines()
    assert lines[:3] == ["queued", "running", "2 chunks planned"]
    assert "dropout=0.30" in lines[3]
    assert lines[-1] == "succeeded"
    (line,) = [line for line in command("runs").splitlines() if line.startswith("by-hand\t")]
    assert "succeeded\t2/2 chunks\ttest F1 0." in line
    assert command("cancel", "by-hand") == "by-hand had ended: succeeded\n"
    command("submit", "trains", *small.split(), "--chunks", str(ENDLESS))
    command("submit", "waits", *small.split(), "--chunks", str(ENDLESS))
    assert command("cancel", "waits") == "waits is cancelled\n"
    assert command("cancel", "trains") in (
        "trains still trains, and is cancelled as soon as it can stop\n",
        "trains is cancelled\n",
    )
    assert command("health") == "serving\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("submit x --method dropout --chunks 1", "'--method': 'dropout' is not one of vanilla, ni"),
        ("submit x --method rd --chunks 1", "'--controller': is empty"),
        ("submit x", "'--chunks': set either chunks or epochs"),
        ("submit x --chunks 99999999999999999999", "'--chunks': 99999999999999999999 must be"),
        ("submit x --chunk-size 1000000000", "'--chunk-size': 1000000000 is not in the range"),
        ("submit x --validation-batches 0", "'--validation-batches': 0 is not in the range"),
        ("submit x --chunks 1 --width nan", "'--width': nan is not in (0, 1]"),
        ("submit x --chunks 1 --model resnet43", "did you mean 'resnet34'? It is not one of"),
        ("submit x --chunks", "'--chunks' requires an argument"),
        ("weights x no/f", "'FILE': 'no/f': its folder does not exist"),
        ("compare --output x --learning-runs two", "'two' is not a whole number of 1 to 1000"),
        ("compare --output x --learning-runs 1001", "'--learning-runs': 1001 is not in"),
        ("compare --output x --minutes nan", "'--minutes': nan is not finite"),
        ("serve --stall-seconds inf", "'--stall-seconds': inf is not in the range"),
        ("serve --threads 1000000000", "'--threads': 1000000000 is more than"),
        ("serve --together 99999999999", "'--together': 99999999999 must be"),
        ("serve --agent-ca nowhere.pem", "'--agent-ca': nowhere.pem cannot be read"),
    ],
)
def test_bad_usage_is_told_in_one_line(words: str, says: str) -> None:
    """Exit code 2, no traceback, and what to do."""
    check_failure(run_command("trainer_service", *words.split()), 2, says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("report /no/such/study", "study.json"),
        ("serve --device cuda:77 --listen 127.0.0.1:0 --metrics-port 0", "cuda:77"),
    ],
)
def test_other_failures_are_told_in_one_line(words: str, says: str, tmp_path: Path) -> None:
    """Exit code 1, and no traceback; in a process of its own, where no other service logs."""
    command = [sys.executable, "-m", "trainer_service", *words.split()]

    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    check_failure(shown, 1, says)


def check_failure(shown: subprocess.CompletedProcess[str], code: int, says: str) -> None:
    assert (shown.returncode, shown.stderr.count("\n")) == (code, 1), shown.stderr
    assert says in shown.stderr
