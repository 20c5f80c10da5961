"""Rounds of RLlib's old policy server and client: get an action, then log its reward.

Run with an environment that has Ray 2.10, of before its new API stack. `serve FILE` serves a PPO
policy that never learns, and prints its address; `load ADDRESS CALLERS SECONDS` prints how many
rounds a second so many threads get.
"""

import os
import socket
import sys
import threading
from functools import partial

import gymnasium
import numpy as np
import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.policy_client import PolicyClient
from ray.rllib.env.policy_server_input import PolicyServerInput

from tests.benchmarks.peers.rounds import rounds_a_second

STATE = np.ones(20, np.float32)


def serve() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(local_mode=True, include_dashboard=False, log_to_driver=False)
    config = (
        PPOConfig()
        .environment(
            env=None,
            observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (20,), np.float32),
            action_space=gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32),
        )
        .framework("torch")
        .offline_data(input_=lambda context: PolicyServerInput(context, "127.0.0.1", port))
        .rollouts(num_rollout_workers=0, enable_connectors=False)
        .training(train_batch_size=10_000_000)
        .evaluation(off_policy_estimation_methods={})
    )
    algorithm = config.build()
    print(f"http://127.0.0.1:{port}", flush=True)
    algorithm.train()
    threading.Event().wait()


def load(address: str, callers: int, seconds: float) -> None:
    clients = [PolicyClient(address, inference_mode="remote") for _ in range(callers)]
    episodes = [client.start_episode() for client in clients]

    def round_of(client: PolicyClient, episode: str) -> None:
        client.get_action(episode, STATE)
        client.log_returns(episode, 0.5)

    rounds = [partial(round_of, c, e) for c, e in zip(clients, episodes, strict=True)]
    print(rounds_a_second(rounds, seconds))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        load(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
