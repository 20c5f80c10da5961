"""Writes the dashboards as Grafana reads them: `make dashboards`."""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.controllers import controllers
from deploy.grafana.service import service
from deploy.grafana.training import training

FOLDER = Path(__file__).parent / "dashboards"


def dashboards() -> dict[str, str]:
    """Return each file's name and text."""
    made = {"controllers": controllers(), "training": training(), "service": service()}
    return {
        f"{name}.json": json.dumps(made, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
        for name, made in made.items()
    }


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in dashboards().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
