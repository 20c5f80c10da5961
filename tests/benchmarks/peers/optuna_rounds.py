"""Rounds of Optuna through its gRPC storage proxy: ask for a trial's value, then tell its score.

Run with an environment that has Optuna. `serve FILE` serves a SQLite store and prints its address;
`load ADDRESS CALLERS SECONDS` prints how many rounds a second so many threads get.
"""

import socket
import sys
import time
import warnings
from functools import partial

import optuna
from optuna.storages import GrpcStorageProxy, get_storage
from optuna.storages._grpc.server import make_server

from tests.benchmarks.peers.rounds import rounds_a_second

warnings.simplefilter("ignore")  # it warns that its proxy is experimental
optuna.logging.set_verbosity(optuna.logging.WARNING)


def serve(file: str) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    server = make_server(get_storage(f"sqlite:///{file}"), "localhost", port)
    server.start()
    print(f"localhost:{port}", flush=True)
    server.wait_for_termination()


def load(address: str, callers: int, seconds: float) -> None:
    host, _, port = address.partition(":")
    sampler = optuna.samplers.RandomSampler(seed=0)  # the cheapest: the storage is measured
    studies = [
        optuna.create_study(
            storage=GrpcStorageProxy(host=host, port=int(port)),
            study_name=f"{time.time_ns()}-{number}",
            sampler=sampler,
            direction="maximize",
        )
        for number in range(callers)
    ]

    def round_of(study: optuna.Study) -> None:
        trial = study.ask()
        trial.suggest_float("dropout", 0.0, 0.9)
        study.tell(trial, 0.5)

    print(rounds_a_second([partial(round_of, study) for study in studies], seconds))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        load(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
