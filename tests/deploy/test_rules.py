"""Prometheus' configuration and rules, by its own tool."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.deploy.prometheus import DEPLOYED, tool

HERE = Path(__file__).parent
ALERTS = (DEPLOYED / "alerts.rules.yml").read_text()


def promtool(*words: str) -> None:
    """Run it; what it finds is the test's failure."""
    shown = subprocess.run([tool("promtool"), *words], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stdout + shown.stderr


def test_the_configuration_is_valid() -> None:
    """With all rule files and both lists of targets."""
    promtool("check", "config", str(DEPLOYED / "prometheus.yml"))
    for job in ("agent", "trainer"):
        assert f"job: {job}" in (DEPLOYED / f"{job}s.yml").read_text()


@pytest.mark.parametrize("rules", ["alerts", "trends"])
def test_the_rules_say_what_they_should(rules: str) -> None:
    """Of made-up series, as `tests/deploy/rules` state: who is alerted and who is not."""
    promtool("test", "rules", str(HERE / "rules" / f"{rules}.test.yml"))


def test_every_alert_says_what_to_do_and_is_tested() -> None:
    """A summary, a description, a runbook, and a case in which it fires."""
    rules = re.split(r"\n\s+- alert: ", ALERTS)[1:]
    cases = (HERE / "rules" / "alerts.test.yml").read_text()
    assert len(rules) == 10
    for rule in rules:
        name = rule.split("\n")[0]
        for part in ("summary: ", "description: ", "runbook: ", "severity: page"):
            assert part in rule, f"{name} has no {part}"
        assert f'alertname="{name}",alertstate="firing"' in cases, f"{name} is not tested"


def test_without_prometheus_tests_skip_unless_they_must_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A developer may lack it; where REQUIRE_PROMETHEUS is set, as in CI, that is a failure."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("REQUIRE_PROMETHEUS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install prometheus"):
        tool("promtool")

    monkeypatch.setenv("REQUIRE_PROMETHEUS", "1")
    with pytest.raises(pytest.fail.Exception, match="promtool is not installed"):
        tool("promtool")
