"""A policy of the package in a study: it decides from the first chunk on."""

from pathlib import Path

import numpy as np
import pytest

from agent_service.client import AgentClient
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.learning import shipped_policies
from tests.agent_service.shipped import ship
from tests.given import ServedAgent, ServedTrainer
from tests.trainer_service.study.simulated import draw_nothing
from trainer_service.study.command import run_study
from trainer_service.study.methods.plan import Phase
from trainer_service.study.methods.pretrained import Pretrained
from trainer_service.study.report.flags import departs
from trainer_service.study.results.results import ResultsFolder
from trainer_service.study.study_file import as_toml, parse_study

STUDY = """
seeds = 2
[training]
training_size = 64
model = "mlp"
width = 0.0625
batch_size = 16
chunk_size = 4
chunks = 3
[[methods]]
name = "pretrained"
kind = "pretrained"
[[methods]]
name = "noise"
kind = "pretrained"
regularizer = "noise"
policy = "noise-2"
[[methods]]
name = "mean"
kind = "mean"
of = "pretrained"
"""


def test_a_policy_of_the_package_is_judged(
    served: ServedAgent, client: AgentClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the mean of the named policy; its values can be taken as a constant."""
    draw_nothing(monkeypatch)
    monkeypatch.setattr(shipped_policies, "FOLDER", tmp_path)
    policy = ship(tmp_path)
    ship(tmp_path, "noise-2", Hyperparameter("noise", low=0.0, high=1.0))
    study, output = parse_study(STUDY, "study"), tmp_path / "results"

    with ServedTrainer(tmp_path, agent=served.address) as trainer:
        run_study(study, output, agent=served.address, trainers=[trainer.address])

    plan = ResultsFolder(output).plan()
    assert len(plan.results) == 3 * 2, "none is trained before"
    assert not [result.key for result in plan.results if departs(result, plan)]
    judged = plan.finished("pretrained", Phase.JUDGED)
    for result in judged:
        assert set(result.trace.policy_version) == {1}
        log = list(client.transitions(run_id=result.run_id))
        assert [list(t.sample) for t in log] == [
            policy.mean(np.array(t.context)).tolist() for t in log
        ]
        assert list(result.trace.values["dropout"]) == [t.action.values["dropout"] for t in log][:3]
    (constant,) = {r.spec.training.values["dropout"] for r in plan.finished("mean", Phase.JUDGED)}
    assert constant == pytest.approx(np.mean([r.trace.values["dropout"] for r in judged]))
    assert "noise" in plan.finished("noise", Phase.JUDGED)[0].trace.values


@pytest.mark.parametrize(
    ("regularizer", "policy"), [("dropout", "dropout-1"), ("noise", "noise-1")]
)
def test_the_policy_is_that_of_the_regularizer(regularizer: str, policy: str) -> None:
    """Where none is named; a study's file names it then, so that it stays the same."""
    assert Pretrained(name="p", regularizer=regularizer).policy == policy
    kind = f'kind = "pretrained"\nregularizer = "{regularizer}"'
    study = parse_study(STUDY.replace('kind = "pretrained"', kind, 1), "study")
    assert f'policy = "{policy}"' in as_toml(study)
    assert parse_study(as_toml(study), "again") == study
