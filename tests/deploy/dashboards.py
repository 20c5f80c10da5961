"""The dashboards as they are deployed, and what they ask."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
DASHBOARDS: dict[str, Any] = {
    path.name: json.loads(path.read_text()) for path in sorted((FOLDER / "dashboards").glob("*"))
}


def panels(dashboard: Any) -> list[Any]:
    """Return panels that show something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(dashboard: Any) -> list[tuple[str, str]]:
    """Return the title of the panel and the expression of each query."""
    return [(p["title"], target["expr"]) for p in panels(dashboard) for target in p["targets"]]


def annotations(dashboard: Any) -> list[tuple[str, str]]:
    """Return name and expression of each kind of marks."""
    return [(a["name"], a["expr"]) for a in dashboard["annotations"]["list"]]


def variables(dashboard: Any) -> list[str]:
    """Return the queries that offer the variables' values."""
    found = dashboard["templating"]["list"]
    return [v["query"]["query"] for v in found if v["type"] == "query"]
