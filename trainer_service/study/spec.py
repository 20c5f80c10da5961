"""What a study compares: methods, seeds, what they train on and how the controllers learn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from agent_service.domain.errors import invalid
from agent_service.domain.rewards import Reward
from agent_service.domain.runs import Mode
from agent_service.domain.specs import ControllerSpec, PPOSettings
from trainer_service.run import RunSpec
from trainer_service.training.spec import Method, TrainingSpec, hyperparameters

LEARNING_SEEDS = 1000
"""Seeds of children that a controller learns on start here: none is judged on, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """A study; raises InvalidArgument naming the field that is wrong."""

    methods: tuple[Method, ...] = tuple(Method)
    seeds: int = 3
    """Fresh children of each method, with seeds 0, 1, ...: the same for all methods."""
    learning_runs: int = 12
    """Children that each controller learns on before it is frozen and judged."""
    training: TrainingSpec
    """What all children have in common; method, values and seed are set for each."""
    reward: Reward = Reward.GAP
    """What the controllers learn from."""
    ppo: PPOSettings = field(default_factory=PPOSettings)
    """How they learn."""

    def __post_init__(self) -> None:
        """Check counts and methods."""
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise invalid("methods", "name at least one, each once")
        if self.seeds < 1:
            raise invalid("seeds", f"{self.seeds} must be at least 1")
        if not 1 <= self.learning_runs <= LEARNING_SEEDS:
            raise invalid("learning_runs", f"{self.learning_runs} is not in [1, {LEARNING_SEEDS}]")
        self._check_transitions()

    def _check_transitions(self) -> None:
        """Check that a controller learns at all, where the length is known before the data is."""
        chunks, needed = self.training.chunks, self.ppo.rollout_size
        if chunks is None or not any(method.is_reinforced for method in self.methods):
            return
        if self.learning_runs * chunks < needed:
            raise invalid(
                "learning_runs",
                f"{self.learning_runs} of {chunks} chunks bring fewer transitions than one update "
                f"takes, {needed}; give more runs or chunks, or a smaller rollout size",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Runs that may train at once."""

    method: Method
    is_learning: bool
    """Whether a controller learns on them; else they are judged."""
    runs: tuple[tuple[str, RunSpec], ...]
    """Ids and specs."""

    @property
    def title(self) -> str:
        """A few words for progress."""
        return f"{self.method.upper()} {'learns' if self.is_learning else 'judged'}"


def controller_name(study: str, method: Method) -> str:
    """Return the name of a method's controller in a study."""
    return f"{study}-{method}"


def controller_spec(study: str, spec: StudySpec, method: Method) -> ControllerSpec:
    """Return the PPO controller that decides for a reinforced method."""
    return ControllerSpec(
        name=controller_name(study, method),
        chunk_size=spec.training.chunk_size,
        hyperparameters=hyperparameters(replace(spec.training, method=method, values={})),
        reward=spec.reward,
        seed=spec.training.data_seed,
        algorithm=spec.ppo,
    )


def stages(study: str, spec: StudySpec) -> list[Stage]:
    """Return a study's stages in order: controllers learn first, then all methods are judged."""
    learning = [
        _stage(study, spec, method, Mode.LEARNING, range(LEARNING_SEEDS, _end(spec)))
        for method in spec.methods
        if method.is_reinforced
    ]
    judged = [
        _stage(study, spec, method, Mode.FROZEN, range(spec.seeds)) for method in spec.methods
    ]
    return learning + judged


def _end(spec: StudySpec) -> int:
    return LEARNING_SEEDS + spec.learning_runs


def _stage(study: str, spec: StudySpec, method: Method, mode: Mode, seeds: range) -> Stage:
    runs = []
    for seed in seeds:
        training = replace(spec.training, method=method, seed=seed)
        run = RunSpec(
            training=training,
            controller=controller_name(study, method) if method.is_reinforced else "",
            mode=mode if method.is_reinforced else None,
        )
        runs.append((f"{study}-{method}-{seed}", run))
    return Stage(method=method, is_learning=mode is Mode.LEARNING, runs=tuple(runs))
