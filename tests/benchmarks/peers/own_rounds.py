"""Rounds of this project through its own server and client: report a chunk, get the next action.

`load ADDRESS CALLERS SECONDS` prints how many rounds a second so many threads get.
"""

import sys

from agent_service.client import AgentClient, ControllerSpec, Hyperparameter, PPOSettings, Reward
from tests.benchmarks.peers.rounds import rounds_a_second

LOSSES = [1.0] * 20


def load(address: str, callers: int, seconds: float) -> None:
    spec = ControllerSpec(
        name="rounds",
        hyperparameters=(Hyperparameter(name="dropout", low=0.0, high=0.9),),
        reward=Reward.VALIDATION,
        algorithm=PPOSettings(rollout_size=50_000),
    )
    with AgentClient(address) as client:
        client.create_controller(spec)
        runs = [client.run("rounds") for _ in range(callers)]
        rounds = [
            lambda run=run: run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5)
            for run in runs
        ]
        print(rounds_a_second(rounds, seconds))


if __name__ == "__main__":
    load(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
