"""Rounds of OSS Vizier through its own server and client: suggest one trial, then complete it.

Run with an environment that has Vizier. `serve FILE` serves a SQLite store and prints its address;
`load ADDRESS CALLERS SECONDS` prints how many rounds a second so many threads get.
"""

import sys
import threading
import time
from functools import partial

from vizier.service import clients
from vizier.service import pyvizier as vz
from vizier.service.servers import DefaultVizierServer

from tests.benchmarks.peers.rounds import rounds_a_second


def serve(file: str) -> None:
    server = DefaultVizierServer(host="localhost", database_url=f"sqlite:///{file}")
    print(server.endpoint, flush=True)
    threading.Event().wait()


def load(address: str, callers: int, seconds: float) -> None:
    clients.environment_variables.server_endpoint = address
    problem = vz.ProblemStatement()
    problem.search_space.root.add_float_param("dropout", 0.0, 0.9)
    problem.metric_information.append(
        vz.MetricInformation("score", goal=vz.ObjectiveMetricGoal.MAXIMIZE)
    )
    config = vz.StudyConfig.from_problem(problem)
    config.algorithm = "RANDOM_SEARCH"  # the cheapest that it has: the service is measured
    names = [f"{time.time_ns()}-{number}" for number in range(callers)]
    studies = [
        clients.Study.from_study_config(config, owner="bench", study_id=name) for name in names
    ]

    def round_of(study: clients.Study) -> None:
        (trial,) = study.suggest(count=1, client_id="bench")
        trial.complete(vz.Measurement({"score": 0.5}))

    print(rounds_a_second([partial(round_of, study) for study in studies], seconds))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        load(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
