"""The wheel without extras is the client: what it holds, needs, and says of the rest."""

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.deploy.deployment import ROOT
from tests.given import ServedAgent

TRAINING = """
import sys
from agent_service.client import AgentClient, ControllerSpec, Hyperparameter

class Loader:
    batch_size = 8
    dataset = range(50)

dropout = Hyperparameter(name="dropout", low=0.0, high=0.5)
with AgentClient(sys.argv[1], budget_seconds=10) as agent:
    agent.create_controller(ControllerSpec(name="c", hyperparameters=(dropout,)))
    with agent.run("c", run_id="r", optimizer=object(), loader=Loader()) as run:
        for _ in range(run.chunk_size):
            run.step(1.0, score=0.5)
        run.report(0.5)
        print(run.hyperparameters["dropout"])
    problem = agent.get_run("r").problem
assert (problem.batch_size, problem.training_samples) == (8, 50)
heavy = {"torch", "stable_baselines3", "sqlalchemy", "click", "trainer_service"}
assert not heavy & set(sys.modules)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The path of an installation without extras: our wheel and its requirements."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("*.whl")
    ours, needed = folder / "ours", folder / "needed"
    install = ["install", "--no-deps", "--no-index", "--target", str(ours), str(wheel)]
    subprocess.run([*pip, *install], check=True)
    needed.mkdir()
    for name in _needed("reinforced-regularization"):
        for file in distribution(name).files or ():
            top = needed / file.parts[0]
            if not top.exists() and file.parts[0] != "..":
                top.symlink_to(Path(str(distribution(name).locate_file(file.parts[0]))))
    return [ours, needed]


def _needed(name: str) -> set[str]:
    """Return what a distribution without extras needs, and what that needs."""
    asked = [Requirement(text) for text in distribution(name).requires or ()]
    direct = {r.name for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})}
    return direct.union(*(_needed(other) for other in direct))


def run(installed: list[Path], code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with nothing but an installation on its path."""
    paths = [str(path) for path in installed]
    start = f"import sys; sys.path[:0] = {paths}; "
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", start + code, *arguments], capture_output=True, text=True
    )


def test_a_base_install_steers_a_training(installed: list[Path], served: ServedAgent) -> None:
    """Against a real service, with no torch, no database and no command line there."""
    done = run(installed, f"exec({TRAINING!r})", served.address)

    assert done.returncode == 0, done.stderr
    assert 0.0 <= float(done.stdout) <= 0.5


@pytest.mark.parametrize("extra", ["agent", "trainer"])
def test_a_command_without_its_extra_says_how_to_get_it(installed: list[Path], extra: str) -> None:
    """One line, no traceback."""
    done = run(installed, f"from {extra}_service.__main__ import main; main()", "--help")

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"pip install 'reinforced-regularization[{extra}]'")


def test_the_wheel_has_no_more_than_the_packages(installed: list[Path]) -> None:
    """Both packages, with their types and migrations; no tests, no deployment, no secrets."""
    ours = installed[0]
    there = {p.name for p in ours.iterdir() if not p.name.endswith(".dist-info")} - {"bin"}
    assert there == {"agent_service", "trainer_service"}
    for file in ("py.typed", "store/sql/migrations/versions/0001_first_tables.py"):
        assert (ours / "agent_service" / file).exists()


def test_the_wheel_has_every_shipped_policy_and_its_card(installed: list[Path]) -> None:
    """Byte for byte as they are in the source."""
    place = Path("agent_service/learning/shipped")
    there = {path.name: path.read_bytes() for path in (ROOT / place).glob("*")}

    assert {path.name: path.read_bytes() for path in (installed[0] / place).glob("*")} == there
    policies = {Path(name).stem for name in there if name.endswith(".safetensors")}
    assert there.keys() == {f"{name}{end}" for name in policies for end in (".safetensors", ".md")}
