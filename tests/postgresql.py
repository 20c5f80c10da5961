"""A PostgreSQL server for tests: a fresh one in a temporary folder, on a free loopback port."""

import math
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.end_to_end.processes import wait_for

_databases = count(1)


def binaries() -> Path | None:
    """Return the folder of the server's programs; None where none is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return None if initdb is None else Path(initdb).resolve().parent


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class PostgresServer:
    """A server that may be stopped, killed and started again."""

    def __init__(self, folder: Path, *, connections: int = 60, syncs: bool = False) -> None:
        """Make a database cluster in `folder`, whose parents anybody may enter.

        Args:
            folder: of the cluster.
            connections: that it takes at once.
            syncs: whether a commit waits for the disk, which few tests need.
        """
        found = binaries()
        if found is None:
            if os.environ.get("REQUIRE_POSTGRESQL") == "1":
                pytest.fail("PostgreSQL is not installed: apt-get install postgresql")
            pytest.skip("PostgreSQL is not installed")
        self._binaries = found
        self._folder = folder
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        give_to_server(folder)
        options = ["--auth=trust", "--username=agent", "--encoding=UTF8", "--no-sync"]
        self._call("initdb", "-D", str(folder / "data"), *options)
        settings = {
            "fsync": "on" if syncs else "off",
            "max_connections": connections,
            "listen_addresses": "'127.0.0.1'",
            "port": self.port,
            "unix_socket_directories": f"'{folder}'",
        }
        lines = [f"{name} = {value}\n" for name, value in settings.items()]
        (folder / "data" / "postgresql.auto.conf").write_text("".join(lines))

    def _command(self, program: str, *options: str) -> list[str]:
        command = [str(self._binaries / program), *options]
        return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else command

    def _call(self, program: str, *options: str) -> None:
        done = subprocess.run(
            self._command(program, *options), capture_output=True, text=True, cwd="/"
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", str(self._folder / "data")),
                stdout=log,
                stderr=log,
                cwd="/",
            )
        wait_for(self._answers)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.dsn("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: str = "immediate") -> None:
        """Stop it as `pg_ctl -m` says: `immediate` is a crash, which it recovers from."""
        if self._process is not None:
            self._call("pg_ctl", "-D", str(self._folder / "data"), "-m", how, "-w", "stop")
            self._process.wait()
            self._process = None

    def kill_sessions(self) -> int:
        """Kill the processes of all others' sessions; return how many there were."""
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            rows = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname <> 'postgres'"
            ).fetchall()
        return len(rows)

    def drop(self, url: str) -> None:
        """Remove a database, and the place of its tables if it has one of its own."""
        name = url.rpartition("/")[2]
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
            connection.execute(f'DROP TABLESPACE IF EXISTS "{name}"')

    def sessions(self) -> float:
        """Return how many sessions others have; infinity where there is no room to ask."""
        try:
            with psycopg.connect(self.dsn("postgres")) as connection:
                ((count,),) = connection.execute(
                    "SELECT count(*) - 1 FROM pg_stat_activity "
                    "WHERE backend_type = 'client backend'"
                ).fetchall()
        except psycopg.OperationalError:
            return math.inf
        return float(count)

    def dsn(self, database: str) -> str:
        """Return how libpq names a database of it."""
        return f"host=127.0.0.1 port={self.port} user=agent dbname={database}"

    def connect(self, url: str) -> psycopg.Connection[tuple[Any, ...]]:
        """Open a session of our own on a store's database."""
        return psycopg.connect(self.dsn(url.rpartition("/")[2]), autocommit=True)

    def new_database(self, *, folder: Path | None = None, encoding: str = "UTF8") -> str:
        """Make an empty database, its tables in a folder if one is given; return its URL."""
        name = f"agent{next(_databases)}"
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            place = ""
            if folder is not None:
                connection.execute(f"CREATE TABLESPACE \"{name}\" LOCATION '{folder}'")
                place = f' TABLESPACE "{name}"'
            text = f"TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"
            connection.execute(f'CREATE DATABASE "{name}" {text}{place}')
        return f"postgresql+psycopg://agent@127.0.0.1:{self.port}/{name}"


def give_to_server(folder: Path) -> None:
    """Let the server write to a folder, where it runs as another user than we do."""
    if os.geteuid() == 0:
        # The server refuses to run as root.
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)


@contextmanager
def running_server(folder: Path, **options: Any) -> Iterator[PostgresServer]:
    """A server that runs, and is gone afterwards; see `PostgresServer` for the options."""
    server = PostgresServer(folder, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
