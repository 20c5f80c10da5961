"""A study of many children on a cluster of Ray, a node of which is killed again and again.

`make test-ray` runs it, and the same study on this machine's own processes; both must have the
same results. CHILDREN is how many children each has.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.end_to_end.long import measure
from tests.end_to_end.processes import AgentProcess, TrainerProcess, command_of
from tests.end_to_end.ray_cluster import RayCluster
from trainer_service.client import TrainerClient
from trainer_service.runs.run import RunState, StateChanged
from trainer_service.study.results.results import Result, ResultsFolder

METHODS = ("vanilla", "ni", "d", "dni")
"""Those that no controller decides: what one learns depends on the order of all runs' chunks."""
TINY = "--subset 64 --model resnet18 --width 0.0625 --batch-size 16 --chunk-size 4"
NODES = 2
POLL_SECONDS = 0.1


def compare(
    folder: Path, *, seeds: int, agent: AgentProcess, trainer: TrainerProcess
) -> subprocess.Popen[str]:
    options = [*TINY.split(), "--validation-batches", "3", "--chunks", "10"]
    options += ["--methods", ",".join(METHODS), "--seeds", str(seeds), "--output", str(folder)]
    command = [*command_of("trainer_service"), "compare", *options]
    command += ["--agent", agent.address, "--trainer", trainer.address]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(study: subprocess.Popen[str], results: Path, meanwhile: Callable[[int], None]) -> None:
    """Wait for a study's end, and do something with the number of its results meanwhile."""
    while study.poll() is None:
        meanwhile(results.read_bytes().count(b"\n") if results.exists() else 0)
        time.sleep(POLL_SECONDS)
    _, error = study.communicate()
    assert study.returncode == 0, error


def outcomes(folder: Path) -> dict[str, Result]:
    """Return results by child, without what differs each time: names, times, lines' digests."""
    return {
        f"{r.key}": replace(
            r, run_id="any", ended_at=0.0, digest="", finished=replace(r.finished, seconds=0.0)
        )
        for r in ResultsFolder(folder).results()
    }


def times_lost(trainer: TrainerProcess) -> int:
    """Return how often a run lost its node, in all runs of a service."""
    with TrainerClient(trainer.address, budget_seconds=60) as client:
        happened = [event.what for run in client.list() for event in client.watch(run.run_id)]
    return sum(
        isinstance(what, StateChanged) and what.state is RunState.QUEUED and "is lost" in what.cause
        for what in happened
    )


def study_through_kills(
    folder: Path, *, seeds: int, kills: int, progress: Callable[[str], None]
) -> dict[str, float]:
    """Run the study both ways, check that the results are the same, and return figures."""
    children = seeds * len(METHODS)
    with AgentProcess(folder / "agent.db") as agent:
        with RayCluster(cpus=1, gpus=1) as cluster:
            for _ in range(NODES):
                cluster.add_node()
            place = ("--executor", "ray", "--address", cluster.address)
            stored = ("--storage", (folder / "shared").as_uri(), "--checkpoint-seconds", "0")
            (folder / "ray").mkdir()
            trainer = TrainerProcess(
                folder / "ray", *place, *stored, agent=agent.address, parallel=NODES
            )
            with trainer:
                killed: list[int] = []

                def kill(finished: int) -> None:
                    if len(killed) < kills and finished >= (len(killed) + 1) * children // (
                        kills + 1
                    ):
                        killed.append(finished)
                        cluster.kill_node()
                        cluster.add_node()
                        progress(f"{finished} of {children} children finished; a node was killed")

                started = time.monotonic()
                study = compare(folder / "on-ray", seeds=seeds, agent=agent, trainer=trainer)
                finish(study, folder / "on-ray" / "results.jsonl", kill)
                seconds = time.monotonic() - started
                lost = times_lost(trainer)
        progress("the same study on this machine's own processes")
        (folder / "local").mkdir()
        with TrainerProcess(folder / "local", agent=agent.address, parallel=NODES) as trainer:
            started = time.monotonic()
            study = compare(folder / "at-home", seeds=seeds, agent=agent, trainer=trainer)
            finish(study, folder / "at-home" / "results.jsonl", lambda _finished: None)
            local_seconds = time.monotonic() - started
    on_ray, at_home = outcomes(folder / "on-ray"), outcomes(folder / "at-home")
    assert on_ray.keys() == at_home.keys()
    assert [key for key in on_ray if on_ray[key] != at_home[key]] == []
    assert len(on_ray) == children
    assert len(killed) == kills
    return {
        "children": children,
        "nodes_killed": kills,
        "runs_that_lost_their_node": lost,
        "seconds_on_ray": round(seconds, 1),
        "seconds_local": round(local_seconds, 1),
    }


def main(children: int) -> None:
    measure(
        "ray_study",
        lambda folder, progress: study_through_kills(
            folder, seeds=children // len(METHODS), kills=3, progress=progress
        ),
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
