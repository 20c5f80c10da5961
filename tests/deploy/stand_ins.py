"""Base images made from Debian's packages, under the names that the deployment pins.

Where no registry can be reached, an unchanged Dockerfile or compose file finds them. They hold what
the pinned images hold of use here, not the same versions of Python and of the system.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.deploy.debian import sources, unpack
from tests.deploy.engine import Engine

CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
PIP_SETTINGS = ("global.index-url", "global.timeout")
"""The pip settings of this machine that an image takes over."""


def make_python_image(engine: Engine, name: str) -> None:
    """Make Debian's Python look like the official image, with this machine's way to PyPI."""
    include = "python3,python3-pip,python3-venv,ca-certificates"
    root = _root(engine.folder / "python.tar", "bookworm", include)
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        shutil.copy(f"/{CERTIFICATES}", context / "ca.crt")
        (context / "pip.conf").write_text(_pip_settings())
        engine.docker("import", str(root), "debian-python")
        (context / "Dockerfile").write_text(
            f"""FROM debian-python
RUN rm /usr/lib/python3.*/EXTERNALLY-MANAGED && ln -s python3 /usr/bin/python
COPY ca.crt /{CERTIFICATES}
COPY pip.conf /etc/pip.conf
"""
        )
        engine.docker("build", "--quiet", "--network=none", "--tag", name, folder)


def _root(file: Path, release: str, packages: str) -> Path:
    """Make a system of a release of Debian with some packages, unless it is there."""
    if not file.exists():
        partial = file.with_suffix(".partial.tar")
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}"]
        subprocess.run([*command, release, str(partial), sources(release)], check=True)
        partial.rename(file)
    return file


def _pip_settings() -> str:
    lines = ["[global]", f"cert = /{CERTIFICATES}"]
    for setting in PIP_SETTINGS:
        command = [sys.executable, "-m", "pip", "config", "get", setting]
        found = subprocess.run(command, capture_output=True, text=True)
        if found.returncode == 0:
            lines.append(f"{setting.removeprefix('global.')} = {found.stdout.strip()}")
    return "\n".join(lines) + "\n"


def make_prometheus_image(engine: Engine, name: str) -> None:
    """Make an image of Debian's Prometheus, with the official one's paths, user and entry point."""
    with tempfile.TemporaryDirectory() as folder:
        unpack("sid", "prometheus", "promtool", into=Path(folder))
        (Path(folder) / "Dockerfile").write_text(
            """FROM debian-python
COPY usr/bin/prometheus usr/bin/promtool /bin/
RUN install -d -o 65534 -g 65534 /prometheus /etc/prometheus
USER 65534:65534
WORKDIR /prometheus
ENTRYPOINT ["/bin/prometheus"]
"""
        )
        engine.docker("build", "--quiet", "--network=none", "--tag", name, folder)


_POSTGRES_START = r"""#!/bin/bash
# As the official image: as root, then as the server's own user, whose first start makes a database.
set -eu
bin=$(echo /usr/lib/postgresql/*/bin)
if [ "$(id -u)" = 0 ]; then
    chown -R postgres: "$PGDATA" /run/postgresql
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    "$bin/initdb" --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" \
        $POSTGRES_INITDB_ARGS
    echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
    "$bin/pg_ctl" -w -o "-c listen_addresses=''" start
    "$bin/createdb" --username="$POSTGRES_USER" "$POSTGRES_DB"
    "$bin/pg_ctl" -w stop
fi
exec "$bin/postgres" -c listen_addresses='*'
"""


def make_postgres_image(engine: Engine, name: str) -> None:
    """Make an image of Debian's PostgreSQL that starts, by its settings, as the official one."""
    root = _root(engine.folder / "postgres.tar", "trixie", "postgresql-17")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "start").write_text(_POSTGRES_START)
        engine.docker("import", str(root), "debian-postgres")
        (Path(folder) / "Dockerfile").write_text(
            """FROM debian-postgres
COPY --chmod=755 start /usr/local/bin/
RUN install -d -o postgres -g postgres /var/lib/postgresql/data
ENV LANG=C.UTF-8 PGDATA=/var/lib/postgresql/data
VOLUME /var/lib/postgresql/data
ENTRYPOINT ["start"]
"""
        )
        engine.docker("build", "--quiet", "--network=none", "--tag", name, folder)
