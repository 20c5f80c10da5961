"""A page of wheels on loopback, for builds: PyTorch for CPUs, as this machine's pip finds it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.deploy.deployment import ROOT

PORT = 18050
"""The same each time, since the address is part of what a build is cached by."""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def wheel_page(folder: Path) -> Iterator[str]:
    """Serve the wheel that the constraints pin, from a folder that keeps it; gives the URL."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    constraints = ROOT / "deploy/constraints.txt"
    command += ["--dest", str(folder), "--constraint", str(constraints), "torch"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    page = ThreadingHTTPServer(("127.0.0.1", PORT), partial(_Quiet, directory=folder))
    thread = Thread(target=page.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{page.server_port}/"
    finally:
        page.shutdown()
        page.server_close()
        thread.join()
