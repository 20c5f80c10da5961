"""A little of the learning that `make test-learning` does to the end."""

from pathlib import Path

import pytest

from agent_service.controllers.random import RandomSettings
from tests.end_to_end.learning import LEAST, mean_return, serving, spec, way_learned
from trainer_service.simulation.child import SimulatedChild


@pytest.mark.slow
def test_a_shared_controller_learns_to_adapt(tmp_path: Path) -> None:
    """After 5,000 transitions, it is nearer to the optimum than any constant rate can be."""
    child = SimulatedChild()
    best_constant = child.constant_return(child.best_constant_rate())

    assert way_learned(tmp_path, seed=3, transitions=5_000) >= LEAST
    assert child.way_to_optimum(best_constant) < LEAST


def test_the_random_controller_is_the_floor(tmp_path: Path) -> None:
    """Its mean return is the closed form's, so `way_to_optimum` starts where it should."""
    with serving(tmp_path) as client:
        client.create_controller(spec("random", RandomSettings()))
        drawn = mean_return(client, "random", range(40))

    assert SimulatedChild().way_to_optimum(drawn) == pytest.approx(0, abs=0.1)
