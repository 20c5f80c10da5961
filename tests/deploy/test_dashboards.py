"""The dashboards as files: what the code makes, what Grafana takes, and metrics that are there."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.generate import dashboards
from deploy.grafana.panels import in_sight
from tests.deploy.dashboards import DASHBOARDS, FOLDER, annotations, panels, queries
from tests.deploy.prometheus import DEPLOYED
from tests.deploy.promised import AGENT, BOTH, TRAINER

SCHEMA = Path(__file__).parent / "schema"
each = pytest.mark.parametrize("name", sorted(DASHBOARDS))


def test_the_files_are_what_the_code_makes() -> None:
    """Nobody edits them; after a change of the code: `make dashboards`."""
    files = {path.name: path.read_text() for path in (FOLDER / "dashboards").glob("*.json")}

    assert files == dashboards()
    assert set(files) == {"controllers.json", "training.json", "service.json"}


@each
def test_grafanas_model_reads_all_of_a_dashboard(name: str) -> None:
    """Read by the SDK and written again it is the same: no key that it does not know."""
    register_default_plugins()
    # Its reader puts links and marks back into a menu.
    read = in_sight(Dashboard.from_json(DASHBOARDS[name]))

    assert json.loads(json.dumps(read, cls=JSONEncoder)) == DASHBOARDS[name]


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node and npm")
def test_dashboards_are_of_grafanas_published_schema(tmp_path: Path) -> None:
    """TypeScript holds them against the types of npm's @grafana/schema; a wrong one it refuses."""
    for path in SCHEMA.iterdir():
        shutil.copy(path, tmp_path)
    texts = {name: json.dumps(dashboard) for name, dashboard in DASHBOARDS.items()}
    texts |= {"wrong": texts["training.json"].replace('"timeseries"', "7", 1)}
    for name, text in texts.items():
        code = f"import type {{ Deployed }} from './deployed';\nexport default {text}"
        (tmp_path / name).with_suffix(".ts").write_text(f"{code} satisfies Deployed;\n")
    quiet = ["--silent", "--no-audit", "--no-fund"]
    subprocess.run(["npm", "install", *quiet], cwd=tmp_path, check=True, timeout=120)

    options = "--noEmit --skipLibCheck --strict --module esnext --moduleResolution bundler"
    sources = [f"{Path(name).stem}.ts" for name in texts]
    shown = subprocess.run(
        ["npx", "tsc", *options.split(), *sources], cwd=tmp_path, capture_output=True, text=True
    )

    (complaint,) = re.findall(r"^(\w+)\.ts\(.*error", shown.stdout, re.MULTILINE)
    assert complaint == "wrong", shown.stdout


@each
def test_panels_have_a_place_a_number_and_words(name: str) -> None:
    """None lies over another, and each says what it means."""
    dashboard = DASHBOARDS[name]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        taken = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
        assert max(columns) < 24
        assert not taken & cells, panel["title"]
        cells |= taken
    for panel in panels(dashboard):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]


def _metrics(exprs: Iterable[str]) -> set[str]:
    """Return the metrics and trends of ours that expressions ask for, as families are named."""
    ours = r"\b\w+:\w+:\w+|\b(?:agent|trainer|grpc|process)_\w+"
    # Labels, and services' names, which are no metrics.
    others = r"grpc_(type|service|method|code)|(agent|trainer)_service"
    return {
        re.sub(r"_(total|bucket|sum|count)$", "", name)
        for name in re.findall(ours, " ".join(exprs))
        if not re.fullmatch(others, name)
    }


def _asked() -> dict[str, set[str]]:
    """Return what each dashboard, and the rules, ask for."""
    asked = {
        name: _metrics(expr for _, expr in [*queries(dashboard), *annotations(dashboard)])
        for name, dashboard in DASHBOARDS.items()
    }
    for path in DEPLOYED.glob("*.rules.yml"):
        asked[path.name] = _metrics(_exprs(path.read_text()))
    return asked


def _exprs(rules: str) -> list[str]:
    """Return the expressions of a file of rules: a line, or what is indented below it."""
    return re.findall(r"expr: (.+(?:\n {10}.+)*)", rules)


def test_every_queried_metric_is_promised() -> None:
    """A metric that no service shows would leave a panel empty, and an alert silent, for ever."""
    trends = re.findall(r"record: (\S+)", (DEPLOYED / "trends.rules.yml").read_text())
    wrong = {name: asked - {*AGENT, *TRAINER, *trends} for name, asked in _asked().items()}

    assert {name: metrics for name, metrics in wrong.items() if metrics} == {}


def test_every_promised_metric_is_queried() -> None:
    """Each metric of ours is in a dashboard, a trend or an alert: none is counted for nobody."""
    ours = {*AGENT, *TRAINER} - set(BOTH)

    assert ours - set[str]().union(*_asked().values()) == set()


def test_grafana_is_told_of_dashboards_and_prometheus() -> None:
    """Provisioning names the folder, and the data source with the interval of the scrapes."""
    provisioning = FOLDER / "provisioning"
    source = (provisioning / "datasources" / "prometheus.yml").read_text()
    provider = (provisioning / "dashboards" / "dashboards.yml").read_text()
    scrapes: Any = re.search(r"scrape_interval: (\S+)", (DEPLOYED / "prometheus.yml").read_text())

    assert f"timeInterval: {scrapes[1]}\n" in source
    assert "url: http://prometheus:9090\n" in source
    assert "path: /var/lib/grafana/dashboards\n" in provider
