"""`make test-deploy`: makes an engine and the images, then runs the checks where both are."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.deploy.deployment import BASE, COMPOSE, CPU, OVERRIDE, ROOT, SECRETS, prepare
from tests.deploy.engine import FOLDER, Engine
from tests.deploy.stand_ins import make_postgres_image, make_prometheus_image, make_python_image
from tests.deploy.wheels import wheel_page

PYTHON = "python:3.11.14-slim-bookworm"
PROMETHEUS = "prom/prometheus:v3.5.3"
POSTGRES = "postgres:17.6-bookworm"
_STAND_INS = {
    PYTHON: make_python_image,
    PROMETHEUS: make_prometheus_image,
    POSTGRES: make_postgres_image,
}
CHECKS = ("tests/deploy/on_engine.py", "tests/deploy/on_engine_replicas.py")


def main() -> None:
    """Run the checks; ends with pytest's exit code."""
    if os.geteuid() != 0 or not os.path.exists("/etc/debian_version"):
        sys.exit("test-deploy: needs root on a Debian machine, where it makes itself an engine")
    engine = Engine(FOLDER)
    with engine.connected(), wheel_page(FOLDER / "wheels") as wheels:
        _make_base_images(engine)
        prepare(wheels)
        for file, services in ((CPU, ("agent", "trainer-0")), (BASE, ("trainer-0",))):
            _build(engine, file, services)
        # Each change of our code leaves layers of gigabytes behind.
        engine.docker("image", "prune", "--force")
        engine.docker("builder", "prune", "--force", "--keep-storage", "8GB")
    with engine.isolated() as inside:
        checks = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-p", "no:cacheprovider"]
        checks += ["-v", "-s", "--timeout=900", *(sys.argv[1:] or CHECKS)]
        done = subprocess.run([*inside, *checks], cwd=ROOT, env=engine.environment)
    sys.exit(done.returncode)


def _make_base_images(engine: Engine) -> None:
    for name, make in _STAND_INS.items():
        if not engine.docker("images", "--quiet", name):
            started = time.monotonic()
            make(engine, name)
            print(f"{name}: a stand-in made in {time.monotonic() - started:.0f} s", flush=True)


def _build(engine: Engine, file: str, services: tuple[str, ...]) -> None:
    """Build services' images as compose.yaml and one more file say."""
    files = [ROOT / "deploy" / name for name in dict.fromkeys((BASE, file))]
    command = [*COMPOSE, *(w for f in (*files, OVERRIDE) for w in ("-f", str(f)))]
    environment = {**engine.environment, "SECRETS": str(SECRETS)}
    for service in services:
        started = time.monotonic()
        build = [*command, "--progress", "plain", "build", service]
        log = FOLDER / "build.log"
        with log.open("ab") as output:
            done = subprocess.run(build, env=environment, stdout=output, stderr=output)
        if done.returncode != 0:
            sys.exit(f"test-deploy: {service} does not build; see {log}")
        print(f"{service} of {file}: built in {time.monotonic() - started:.0f} s", flush=True)


main()
