import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_generated_code_is_that_of_the_contracts(tmp_path: Path) -> None:
    """The files under */v1/ are the compiler's output for proto/."""
    protos = ["agent_service/v1/agent.proto", "trainer_service/v1/trainer.proto"]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", "proto"]
    command += [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}", *protos]
    subprocess.run(command, cwd=ROOT, check=True)

    fresh = sorted(tmp_path.rglob("*.py"))
    assert len(fresh) == 4
    for path in fresh:
        assert path.read_text() == (ROOT / path.relative_to(tmp_path)).read_text()


def breaks(folder: Path, release: Path) -> bool:
    """Whether the contracts in a folder break clients that were made for a release's."""
    buf = Path(sys.executable).with_name("buf")
    command = [str(buf), "breaking", "--config", ".buf.yaml", "--against", str(release)]
    return subprocess.run(command, cwd=folder, capture_output=True).returncode != 0


def test_contracts_only_grow(tmp_path: Path) -> None:
    """Clients of each release are served; a field that is gone or renamed would be found.

    A release adds its contracts: buf build --exclude-source-info -o tests/data/contracts/X.binpb
    """
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    shutil.copy(ROOT / ".buf.yaml", tmp_path)
    contract = tmp_path / "proto/agent_service/v1/agent.proto"
    text = contract.read_text()
    for release in (ROOT / "tests/data/contracts").glob("*.binpb"):
        contract.write_text(text)
        assert not breaks(tmp_path, release)
        contract.write_text(text.replace("string run_id = 1;", "string run = 1;", 1))
        assert breaks(tmp_path, release)
