"""Policy files from strangers, sent to a real service: refused, nothing run, nothing changed."""

import json
import os
import pickle
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import grpc
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_service.client import AgentClient, PPOSettings
from agent_service.domain.errors import InvalidArgument
from agent_service.learning.policy_file import from_bytes, to_bytes
from agent_service.learning.snapshot import initial_snapshot
from agent_service.rpc import servicer
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1.agent_pb2_grpc import AgentServiceStub as Stub
from tests.agent_service.specs import spec
from tests.end_to_end.processes import AgentProcess

NORMALIZED = spec(algorithm=PPOSettings(normalize_observations=True))
MIB = 2**20
OTHER = spec(algorithm=PPOSettings(normalize_observations=True), chunk_size=5)
GOOD = to_bytes(initial_snapshot(NORMALIZED), NORMALIZED, policy_version=1)
LENGTH = int.from_bytes(GOOD[:8], "little")
HEADER = json.loads(GOOD[8 : 8 + LENGTH])


class Touch:
    """Pickled, it writes a file where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def with_header(header: object, body: bytes = GOOD[8 + LENGTH :]) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def with_array(name: str = "log_std", **changes: object) -> bytes:
    """Return the good file with what its header says of one array changed."""
    return with_header(HEADER | {name: HEADER[name] | changes})


def with_dtype(name: str, size: int) -> bytes:
    """Return the good file with its first array of another type, and the length that it needs."""
    first = min(
        (name for name in HEADER if name != "__metadata__"),
        key=lambda name: HEADER[name]["data_offsets"],
    )
    count = int(np.prod(HEADER[first]["shape"]))
    old = HEADER[first]["data_offsets"][1]
    shift = count * size - old
    header = {}
    for key, entry in HEADER.items():
        if key != "__metadata__":
            begin, end = entry["data_offsets"]
            entry = entry | {"data_offsets": [begin + shift, end + shift]}
        header[key] = entry
    header[first] = HEADER[first] | {"dtype": name, "data_offsets": [0, count * size]}
    return with_header(header, bytes(count * size) + GOOD[8 + LENGTH + old :])


def with_arrays(**changes: np.ndarray | None) -> bytes:
    """Return the good file with arrays replaced, added or (None) removed."""
    arrays = safetensors.numpy.load(GOOD) | {n.replace("__", "."): a for n, a in changes.items()}
    kept = {name: array for name, array in arrays.items() if array is not None}
    return safetensors.numpy.save(kept, HEADER["__metadata__"])


def zipped(data: bytes) -> bytes:
    """Return a compressed zip with data where stable-baselines3 has a pickle."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("policy.pth", data)
    return file.getvalue()


def hostile(folder: Path) -> dict[str, bytes]:
    """Return files by what is wrong with them; what would run in them touches `folder/ran`."""
    manifest = HEADER["__metadata__"]
    (name,) = manifest
    trick = "../../../tmp/x"
    pickled = pickle.dumps(Touch(folder / "ran"))
    header = json.dumps(HEADER)
    return {
        "nothing": b"",
        "seven bytes": b"\x01" * 7,
        "a pickle": pickled,
        "a pickle as the body": with_header(HEADER, pickled),
        "a pickle as the header": with_header(pickled),
        "a zip of stable-baselines3": zipped(pickled),
        "a zip bomb": zipped(bytes(64 * MIB)),
        "billions of elements": with_array(shape=[2**31, 2**31]),
        "more elements than there are": with_array(shape=[2**63]),
        "a negative shape": with_array(shape=[-1]),
        "a shape of half a million axes": with_array(shape=[1] * 500_000),
        "a header that is longer than told": (LENGTH - 1).to_bytes(8, "little") + GOOD[8:],
        "a header that is shorter than told": (LENGTH + 1).to_bytes(8, "little") + GOOD[8:],
        "a header of 2^63 bytes": (2**63).to_bytes(8, "little") + GOOD[8:],
        "offsets beyond the end": with_array(data_offsets=[0, 2**40]),
        "offsets backwards": with_array(data_offsets=[8, 4]),
        "negative offsets": with_array(data_offsets=[-4, 0]),
        "arrays that overlap": with_array(
            data_offsets=[o + 4 for o in HEADER["log_std"]["data_offsets"]]
        ),
        "float16": with_dtype("F16", 2),
        "bfloat16": with_dtype("BF16", 2),
        "int64": with_dtype("I64", 8),
        "an unknown type": with_array(dtype="PICKLE"),
        "NaN": with_arrays(value_net__bias=np.full(1, np.nan, np.float32)),
        "infinity": with_arrays(value_net__bias=np.full(1, np.inf, np.float32)),
        "another shape": with_arrays(log_std=np.zeros(2, np.float32)),
        "an overflowing deviation": with_arrays(log_std=np.full(1, 1e5, np.float32)),
        "a negative variance": with_arrays(observation__var=np.full(4, -1.0)),
        "a mean whose product overflows": with_arrays(observation__mean=np.full(4, 1e305)),
        "a negative count": with_arrays(reward__count=np.full((), -1.0)),
        "a surplus array": with_arrays(more=np.zeros(1, np.float32)),
        "a missing array": with_arrays(log_std=None),
        "a future format": GOOD.replace(b'\\"format\\": 1', b'\\"format\\": 9'),
        "no manifest": safetensors.numpy.save(safetensors.numpy.load(GOOD)),
        "another controller's": to_bytes(initial_snapshot(OTHER), OTHER, policy_version=1),
        "a path as a name": with_header(HEADER | {trick: HEADER["log_std"]}),
        "a path in the metadata": with_header(HEADER | {"__metadata__": manifest | {trick: trick}}),
        "metadata of numbers": with_header(HEADER | {"__metadata__": {name: 1}}),
        "a list as metadata": with_header(HEADER | {"__metadata__": [name]}),
        "deep nesting": with_header(b"[" * 30_000),
        "deep nesting in the manifest": with_header(
            HEADER | {"__metadata__": {name: '{"format":' * 5_000}}
        ),
        "an array twice": with_header(
            (header[:-1] + f', "log_std": {json.dumps(HEADER["log_std"])}}}').encode()
        ),
        "a header that is no UTF-8": with_header(
            header.encode().replace(b"log_std", b"log_st\xff")
        ),
        "a header in UTF-16": with_header(header.encode("utf-16")),
        "two files": GOOD + GOOD,
        "half a file": GOOD[: len(GOOD) // 2],
        "a byte too few": GOOD[:-1],
        "a byte too many": GOOD + b"x",
        "100 MiB": GOOD + bytes(100 * MIB),
    }


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path_factory.mktemp("hostile") / "agent.db") as agent:
        yield agent


def resident_bytes(agent: AgentProcess) -> int:
    """Return the largest resident memory that the server ever had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{agent.process.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def test_hostile_files_are_refused(agent: AgentProcess, tmp_path: Path) -> None:
    """INVALID_ARGUMENT; no code is run, the policy and the log stay, little memory is taken."""
    with AgentClient(agent.address) as client:
        client.create_controller(NORMALIZED)
        run = client.run("c", run_id="r")
        run.report_chunk([1.0] * 4, training_score=0.5, validation_score=0.5)
        before = (client.get_controller("c"), list(client.transitions()), client.export_policy("c"))
        memory = resident_bytes(agent)

        for what, data in hostile(tmp_path).items():
            with pytest.raises(InvalidArgument, match=r"policy: |data: "):
                print(what, client.import_policy("c", data))

        after = (client.get_controller("c"), list(client.transitions()), client.export_policy("c"))
        assert after == before
        assert resident_bytes(agent) - memory < 64 * MIB
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([], grpc.StatusCode.INVALID_ARGUMENT),
        ([("c", GOOD[:100]), ("d", GOOD[100:])], grpc.StatusCode.INVALID_ARGUMENT),
        ([("", GOOD)], grpc.StatusCode.NOT_FOUND),
        ([("../c", GOOD)], grpc.StatusCode.NOT_FOUND),
        ([("c", b"x" * (5 * MIB))], grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_pieces_that_make_no_file_are_refused(
    client: AgentClient, stub: Stub, sent: list[tuple[str, bytes]], code: grpc.StatusCode
) -> None:
    """Of two controllers, of none, of an unknown one, or too large a piece: the policy stays."""
    client.create_controller(NORMALIZED)

    with pytest.raises(grpc.RpcError) as raised:
        stub.ImportPolicy(
            (pb.ImportPolicyRequest(controller=name, data=data) for name, data in sent), timeout=30
        )

    assert raised.value.code() is code
    assert client.get_controller("c").policy_version == 1


def test_an_endless_file_is_refused_before_its_end(client: AgentClient, stub: Stub) -> None:
    """The service stops reading once it exceeds any policy, and serves on."""
    client.create_controller(NORMALIZED)
    sent = 0

    def endless() -> Iterator[pb.ImportPolicyRequest]:
        nonlocal sent
        while True:
            sent += 1
            yield pb.ImportPolicyRequest(controller="c", data=bytes(64 * 1024))

    with pytest.raises(grpc.RpcError) as raised:
        stub.ImportPolicy(endless(), timeout=30)

    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert sent < 1000
    assert client.get_controller("c").policy_version == 1


def test_a_file_that_drips_is_given_up(
    client: AgentClient, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RESOURCE_EXHAUSTED with the time that a file may take."""
    monkeypatch.setattr(servicer, "IMPORT_SECONDS", 0.2)
    client.create_controller(NORMALIZED)
    is_over = threading.Event()

    def drip() -> Iterator[pb.ImportPolicyRequest]:
        for place in range(len(GOOD)):
            yield pb.ImportPolicyRequest(controller="c", data=GOOD[place : place + 1])
            if is_over.wait(0.01):
                return

    with pytest.raises(grpc.RpcError) as raised:
        stub.ImportPolicy(drip(), timeout=30)
    is_over.set()

    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "0.2 s" in (raised.value.details() or "")
    assert client.get_controller("c").policy_version == 1


CUTS = st.tuples(st.integers(0, len(GOOD)), st.integers(0, 200), st.binary(max_size=200))


@settings(max_examples=300, deadline=None)
@given(cuts=st.lists(CUTS, min_size=1, max_size=5), swaps=st.lists(st.integers(0, LENGTH)))
def test_fuzzed_files_are_refused_or_harmless(
    cuts: list[tuple[int, int, bytes]], swaps: list[int]
) -> None:
    """Pieces or bytes cut out, put in and overwritten: refused, or a policy of finite numbers."""
    data = bytearray(GOOD)
    for place, length, put in cuts:
        data[place : place + length] = put
    for place in swaps:
        data[8 + place : 10 + place] = data[8 + place : 10 + place][::-1]
    try:
        snapshot = from_bytes(bytes(data), NORMALIZED)
    except InvalidArgument:
        return

    sample, log_probability = snapshot.sample(np.ones(4), np.ones(1))

    assert np.isfinite([*sample, log_probability]).all()
