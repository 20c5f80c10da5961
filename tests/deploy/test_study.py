"""Metrics, trends, alerts and dashboards while a real study trains."""

import re
import subprocess
from collections.abc import Iterator, Mapping

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as text_string_to_openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.dashboards import DASHBOARDS, annotations, queries, variables
from tests.deploy.prometheus import SCRAPE_SECONDS, tool
from tests.deploy.promised import AGENT, TRAINER
from tests.deploy.study import Study, running_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    with running_study(tmp_path_factory.mktemp("study")) as study:
        yield study


def families(page: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(page)}


def labels(family: Metric) -> tuple[str, ...]:
    found = {name for sample in family.samples for name in sample.labels}
    return tuple(sorted(found - {"le", "quantile"}))


def test_the_pages_show_what_is_promised_and_nothing_else(study: Study) -> None:
    """Each metric once, with these labels and a help text."""

    def shown() -> list[dict[str, tuple[str, ...]]]:
        return [{n: labels(f) for n, f in families(page).items()} for page in study.pages()]

    study.until(lambda: shown() == [AGENT, TRAINER])

    assert shown() == [AGENT, TRAINER]
    for page in study.pages():
        declared = re.findall(r"^# TYPE (\S+) ", page, re.MULTILINE)
        assert len(set(declared)) == len(declared)
        for name, family in families(page).items():
            assert family.documentation, name


def test_the_pages_are_openmetrics_with_units(study: Study) -> None:
    """A strict reader takes the format that Prometheus asks for first, with each unit declared."""
    for page in study.pages("application/openmetrics-text; version=1.0.0"):
        found = list(text_string_to_openmetrics_families(page))  # type: ignore[no-untyped-call]
        assert len(found) > 20
        for family in found:
            if not family.name.startswith(("process_", "python_")):
                unit = re.search(r"_(seconds|bytes)$", family.name)
                assert family.unit == (unit[1] if unit else ""), family.name


def test_promtool_has_no_complaint_about_the_pages(study: Study) -> None:
    """Names, units and types are as Prometheus' own linter wants them."""
    for page in study.pages():
        command = [tool("promtool"), "check", "metrics"]
        shown = subprocess.run(command, input=page, capture_output=True, text=True)
        assert shown.returncode == 0
        assert shown.stdout + shown.stderr == ""


def test_prometheus_scrapes_both_services_and_evaluates_every_rule(study: Study) -> None:
    """Targets are up, each trend has values, and each alert is evaluated without an error."""

    def targets() -> list[object]:
        found: list[object] = study.prometheus.get("targets")["activeTargets"]
        return found

    # A file of targets is read some moments after the start.
    study.until(lambda: len(targets()) == 2)
    groups = study.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    trends = [rule["name"] for rule in rules if rule["type"] == "recording"]
    assert len(targets()) == 2
    assert len(rules) - len(trends) == 10

    assert study.without_data(trends) == set()
    groups = study.prometheus.get("rules")["groups"]
    assert [r["lastError"] for g in groups for r in g["rules"] if r["health"] != "ok"] == []
    # A busy machine may be late with a page, and answer the next time.
    assert study.until(lambda: study.values("min(up)")[-1:] == [1])
    assert study.values('count(ALERTS{alertstate="firing"}) or vector(0)')[-1] == 0


def test_every_panel_and_mark_of_every_dashboard_shows_data(study: Study) -> None:
    """Each query, with its variables filled as Grafana would, against what was scraped."""
    chosen = {
        "controller": study.controller,
        "other": "watched",
        "hyperparameter": "dropout",
        "run": ".*",
        "trainer": ".*",
        "instance": ".*",
        "__rate_interval": f"{5 * SCRAPE_SECONDS}s",
    }
    asked = {
        filled(expr, chosen): f"{name}: {title}"
        for name, dashboard in DASHBOARDS.items()
        for title, expr in [*queries(dashboard), *annotations(dashboard)]
    }
    assert len(asked) > 60

    assert {asked[expr]: expr for expr in study.without_data(asked)} == {}


def filled(expr: str, chosen: Mapping[str, str]) -> str:
    """Return an expression without variables; an unknown one is a KeyError."""
    return re.sub(r"\$(\w+)", lambda found: chosen[found[1]], expr)


def test_every_variable_offers_values(study: Study) -> None:
    """As Grafana asks for them: `label_values(metric{...}, label)`."""
    chosen = {"controller": study.controller, "other": "watched", "trainer": ".*"}

    def offered(query: str) -> list[str]:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert found, query
        match = {"match[]": filled(found[1], chosen)}
        values: list[str] = study.prometheus.get(f"label/{found[2]}/values", **match)
        return values

    asked = {q for dashboard in DASHBOARDS.values() for q in variables(dashboard)}
    assert len(asked) == 6
    study.until(lambda: all(offered(query) for query in asked))

    assert [query for query in asked if not offered(query)] == []
    assert set(offered("label_values(agent_runs, controller)")) == {"watched", study.controller}
