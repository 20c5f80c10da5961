"""The contract alone is enough: a training in JavaScript, by gRPC's own library there."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from agent_service.client import AgentClient
from agent_service.v1 import agent_pb2 as pb
from tests.given import ServedAgent

HERE = Path(__file__).parent
PROTOS = HERE.parent.parent / "proto"


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node and npm")
def test_a_training_in_node_is_controlled(
    served: ServedAgent, client: AgentClient, tmp_path: Path
) -> None:
    """It gets values and errors; its reports are in the log."""
    for name in ("package.json", "train.js"):
        shutil.copy(HERE / name, tmp_path)
    quiet = ["--silent", "--no-audit", "--no-fund"]
    subprocess.run(["npm", "install", *quiet], cwd=tmp_path, check=True, timeout=120)
    command = ["node", "train.js", served.address, str(PROTOS)]
    shown = subprocess.run(
        command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60
    )
    printed = json.loads(shown.stdout)

    log = list(client.transitions(run_id="node-1"))
    assert [t.chunk_index for t in log] == [1, 2, 3]
    assert [list(t.next_state) for t in log] == [
        [1 / (chunk + step) for step in range(20)] for chunk in (1, 2, 3)
    ]
    run = client.get_run("node-1")
    assert printed == {"values": dict(run.action.values), "chunk": 4, "code": 5}, "5 is NOT_FOUND"
    assert run.outcome == pb.OUTCOME_TERMINATED
