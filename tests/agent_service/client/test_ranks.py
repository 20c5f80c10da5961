"""A training by two processes is one run: one report a chunk, the same action on both."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent_service.client import AgentClient
from tests.agent_service.specs import spec
from tests.conftest import ServedAgent

SCRIPT = """
import json, sys
import torch
from torch import distributed, nn
from agent_service.client import AgentClient

rank, address, store, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
torch.manual_seed(0)
plain = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.25), nn.Linear(8, 3))
model = nn.parallel.DistributedDataParallel(plain)
torch.manual_seed(rank)
told = {"losses": [], "rates": [], "error": ""}
# Only rank 0 may need the agent: the other is given an address where nobody is.
with AgentClient(address if rank == 0 else "127.0.0.1:9", budget_seconds=1) as agent:
    with agent.run("c", run_id="r", model=model) as run:
        for _ in range(8):
            x, y = torch.randn(6, 4), torch.randint(3, (6,))
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, y)
            loss.backward()
            run.step(loss, logits, y)
            told["losses"].append(loss.item())
            told["rates"].append(plain[1].p)
            if run.chunk_full:
                run.report([(logits, y)])
    try:
        agent.run("nobody", model=model)
    except Exception as error:
        told["error"] = type(error).__name__
open(f"{folder}/{rank}.json", "w").write(json.dumps(told))
distributed.destroy_process_group()
"""


def test_two_ranks_are_one_run(client: AgentClient, served: ServedAgent, tmp_path: Path) -> None:
    """What is reported is the mean of both, once; what is wrong is raised on both."""
    client.create_controller(spec())
    arguments = [served.address, str(tmp_path / "store"), str(tmp_path)]
    ranks = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(rank), *arguments]) for rank in (0, 1)
    ]
    assert [rank.wait(60) for rank in ranks] == [0, 0]
    told: list[dict[str, Any]] = [
        json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)
    ]

    log = list(client.transitions(run_id="r"))
    assert [t.chunk_index for t in log] == [1, 2]
    means = [(a + b) / 2 for a, b in zip(told[0]["losses"], told[1]["losses"], strict=True)]
    assert [loss for t in log for loss in t.next_state] == pytest.approx(means)
    assert told[0]["losses"] != told[1]["losses"]
    assert told[0]["rates"] == told[1]["rates"]
    assert told[0]["rates"][::4] == [t.action.values["dropout"] for t in log]
    assert [t["error"] for t in told] == ["NotFound", "NotFound"]
