import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_generated_code_is_that_of_the_contracts(tmp_path: Path) -> None:
    """What is committed under */v1/ is what the compiler makes of proto/ now."""
    protos = ["agent_service/v1/agent.proto", "trainer_service/v1/trainer.proto"]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", "proto"]
    command += [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}", *protos]
    subprocess.run(command, cwd=ROOT, check=True)

    fresh = sorted(tmp_path.rglob("*.py"))
    assert len(fresh) == 4
    for path in fresh:
        assert path.read_text() == (ROOT / path.relative_to(tmp_path)).read_text()
