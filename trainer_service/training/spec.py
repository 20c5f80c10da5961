"""All that decides a child's training; a checked value that knows no tensor and no service."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum

from agent_service.domain.checks import quoted
from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import Hyperparameter
from trainer_service.training.child.models import Model as Model
from trainer_service.training.child.models import traits_of
from trainer_service.training.datasets.catalog import check_dataset
from trainer_service.training.regularizers.registry import training_method
from trainer_service.training.regularizers.regularizer import Regularizer


class Method(StrEnum):
    """Names of the rows of the paper's Table 1; a spec takes that of any registered regularizer."""

    VANILLA = "vanilla"
    NI = "ni"
    D = "d"
    DNI = "dni"
    RNI = "rni"
    RD = "rd"


class Sites(StrEnum):
    """Which hyperparameters drive the sites."""

    SHARED = "shared"
    EACH = "each"


class Stem(StrEnum):
    """The layers before a ResNet's first stage."""

    AUTO = "auto"
    """Small for images under 64 pixels, else as for ImageNet."""
    SMALL = "small"
    """3x3, stride 1, no pooling: the usual one for CIFAR."""
    IMAGENET = "imagenet"
    """7x7, stride 2, and pooling."""


class Start(StrEnum):
    """Initial weights."""

    SCRATCH = "scratch"
    IMAGENET = "imagenet"


class Precision(StrEnum):
    """Number format of the forward and backward passes."""

    FP32 = "fp32"
    TF32 = "tf32"
    """fp32 with products of 10 bits of mantissa, on CUDA only."""
    BF16 = "bf16"
    """Autocast."""


class Execution(StrEnum):
    """How training steps are launched; hyperparameters are read from tensors in each."""

    EAGER = "eager"
    COMPILED = "compiled"
    """The child through torch.compile."""
    GRAPHS = "graphs"
    """Whole training steps as CUDA graphs, on CUDA only."""


class MemoryFormat(StrEnum):
    """How features lie in memory."""

    AUTO = "auto"
    """Channels last on CUDA, contiguous on CPU."""
    CONTIGUOUS = "contiguous"
    CHANNELS_LAST = "channels_last"
    """On CUDA only."""


class Augment(StrEnum):
    """Augmentation of each training image, drawn at each use."""

    NONE = "none"
    """The paper names no augmentation."""
    CROP_FLIP = "crop-flip"
    """A random crop after padding by an eighth, mirrored or not."""


class Score(StrEnum):
    """Score of a chunk's batches; names as the client's."""

    OF_BATCHES = "macro-f1-of-batches"
    """The mean of the batches' macro F1 (Eqs. 7-10)."""
    OF_SAMPLES = "macro-f1"
    """Macro F1 of all their samples together: it does not depend on the batch's size."""


DEFAULT_METHOD = "vanilla"
TEST_SHARE = 0.2
"""Share of training that is drawn, by class, for a test if the data set has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """A child's data, network, regularization and length of training.

    Raises:
        InvalidArgument: naming the field that is wrong.
    """

    dataset: str = "digits"
    """A registered one, or `folder:NAME` or `npz:NAME`; all but `digits` below the data folder."""
    image_size: int | None = None
    """Pixels each way that images are brought to, in [8, 1024]; None is the data set's own size."""
    classes: int | None = None
    """Classes that are used, at least 2, drawn by the data seed; None for all."""
    class_names: tuple[str, ...] = ()
    """Names of the classes that are used, or that `classes` draws from; empty for all."""
    validation_share: float = 0.1
    """Share of training, less a drawn test, to validate on without such a split; in (0, 1)."""
    deduplicate: bool = False
    """Whether training loses what stands in validation or test, and validation what is in test."""
    training_size: int | None = None
    """Images of the training split that are used, drawn by class; None for all."""
    label_noise: float = 0.0
    """Share of training labels that are replaced by another class, in [0, 1)."""
    augment: Augment = Augment.NONE
    data_seed: int = 0
    """Seed of classes, splits, subset and label noise."""
    model: Model = Model.RESNET34
    width: float = 1.0
    """Share of the channels or units of a ResNet, an mlp or a cnn, in (0, 1]."""
    depth: int | None = None
    """Hidden layers of an mlp, 1 to 5, or blocks of a cnn, 1 to 4; None is 2 and 3."""
    stem: Stem = Stem.AUTO
    start: Start = Start.SCRATCH
    method: str = DEFAULT_METHOD
    """A registered regularizer under fixed values or a controller's, as `d` or `rd`."""
    sites: Sites = Sites.SHARED
    values: Mapping[str, float] = field(default_factory=dict)
    """Fixed values by hyperparameter, or DNI's initial `noise-strength`; empty takes defaults."""
    chunks: int | None = None
    """Length in chunks; set either this or `epochs`."""
    epochs: int | None = None
    """Length in passes over the training split."""
    batch_size: int = 64
    learning_rate: float = 1e-3
    chunk_size: int = 20
    """N, training steps in a chunk."""
    validation_batches: int = 20
    """m, validation batches in a chunk."""
    precision: Precision = Precision.FP32
    memory_format: MemoryFormat = MemoryFormat.AUTO
    execution: Execution = Execution.EAGER
    score: Score = Score.OF_BATCHES
    seed: int = 0
    """Seed of initial weights, batch order and noise."""

    def __post_init__(self) -> None:
        """Check each field, then the fields against one another."""
        check_dataset(self.dataset)
        for name in ("training_size", "chunks", "epochs"):
            if getattr(self, name) is not None:
                _at_least_one(name, getattr(self, name))
        if self.image_size is not None and not 8 <= self.image_size <= 1024:
            raise invalid("image_size", f"{self.image_size} is not in [8, 1024]")
        if self.classes is not None and not 2 <= self.classes < 2**31:
            raise invalid("classes", f"{self.classes} must be at least 2, and below 2^31")
        self._check_class_names()
        if not 0 < self.validation_share < 1:
            raise invalid("validation_share", f"{self.validation_share} is not in (0, 1)")
        for name in ("batch_size", "chunk_size", "validation_batches"):
            _at_least_one(name, getattr(self, name))
        for name in ("seed", "data_seed"):
            if not 0 <= getattr(self, name) < 2**63:
                raise invalid(name, f"{getattr(self, name)} is not in [0, 2^63)")
        if not 0 <= self.label_noise < 1:
            raise invalid("label_noise", f"{self.label_noise} is not in [0, 1)")
        if not 0 < self.width <= 1:
            raise invalid("width", f"{self.width} is not in (0, 1]")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise invalid("learning_rate", f"{self.learning_rate} must be above 0")
        if (self.chunks is None) == (self.epochs is None):
            raise invalid("chunks", "set either chunks or epochs")
        training_method(self.method)
        self._check_model()
        self._check_start()
        self._check_sites()
        self._check_values()

    def _check_class_names(self) -> None:
        names = self.class_names
        if len(names) == 1:
            raise invalid("class_names", f"{quoted(names[0])} is one class; name at least two")
        for place, name in enumerate(names):
            if name in names[:place]:
                raise invalid("class_names", f"{quoted(name)} is there twice; name each class once")
        if names and self.classes is not None and self.classes > len(names):
            text = f"{self.classes} are more than the {len(names)} of class_names"
            raise invalid("classes", text)

    def _check_model(self) -> None:
        traits = traits_of(self.model)
        if self.width != 1 and not traits.has_width:
            raise invalid("width", f"{self.width}: {self.model} is there at width 1 only")
        if self.stem is not Stem.AUTO and not traits.has_stem:
            raise invalid("stem", f"{self.stem}: only ResNets have a choice; use auto")
        depths = traits.stages_by_depth
        if self.depth is not None and not depths:
            raise invalid("depth", f"{self.depth}: only mlp and cnn have a choice; leave it out")
        if self.depth is not None and self.depth not in depths:
            text = f"{self.depth} is not in [{min(depths)}, {max(depths)}], for {self.model}"
            raise invalid("depth", text)

    def _check_start(self) -> None:
        if self.start is Start.SCRATCH:
            return
        if not traits_of(self.model).has_imagenet:
            raise invalid("start", f"{self.model} has no weights of ImageNet; use scratch")
        if self.width != 1:
            raise invalid("width", f"{self.width}: ImageNet's weights are there for width 1 only")
        if self.stem is Stem.SMALL:
            raise invalid("stem", "ImageNet's weights expect the stem `imagenet`")

    @property
    def regularizer(self) -> Regularizer:
        """That of its method."""
        return training_method(self.method).regularizer

    @property
    def is_reinforced(self) -> bool:
        """Whether a controller decides the values."""
        return training_method(self.method).is_reinforced

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the child's stages, whose outputs a regularizer can change."""
        return traits_of(self.model).stages(self.depth)

    def _check_sites(self) -> None:
        if self.regularizer.sites and not self.regularizer.sites_among(self.stages):
            text = f"{self.method} changes stages, and {self.model} of depth {self.depth} has none"
            raise invalid("method", f"{text}; give it a depth of 2, or another method")

    def _check_values(self) -> None:
        given = () if self.is_reinforced else hyperparameters(self)
        if self.regularizer.is_trained:
            given = (self.regularizer.strength,)
        allowed = {h.name: h for h in given}
        for name, value in self.values.items():
            if name not in allowed:
                raise invalid(
                    f"values[{name}]", f"{self.method} takes {sorted(allowed) or 'no fixed value'}"
                )
            low, high = allowed[name].low, allowed[name].high
            if not low <= value <= high:
                raise invalid(f"values[{name}]", f"{value} is not in [{low}, {high}]")


def hyperparameters(spec: TrainingSpec) -> tuple[Hyperparameter, ...]:
    """Return what drives a spec's method, fixed or decided; none where the loss trains it."""
    return spec.regularizer.hyperparameters(each=spec.sites is Sites.EACH, stages=spec.stages)


def fixed_values(spec: TrainingSpec) -> dict[str, float]:
    """Return the values that a spec's method runs under, where no controller decides."""
    if spec.is_reinforced:
        return {}
    default = spec.regularizer.default
    return {h.name: spec.values.get(h.name, default) for h in hyperparameters(spec)}


def initial_strength(spec: TrainingSpec) -> float:
    """Return where a strength begins that the loss trains."""
    return next(iter(spec.values.values()), spec.regularizer.default)


def _at_least_one(name: str, value: int) -> None:
    if not 1 <= value < 2**31:
        raise invalid(name, f"{value} must be at least 1, and below 2^31")


OUTSIDE_STEPS = frozenset(
    {
        *("dataset", "image_size", "classes", "class_names", "validation_share", "deduplicate"),
        *("training_size", "label_noise", "augment", "data_seed", "values", "chunks", "epochs"),
        *("validation_batches", "score", "seed"),
    }
)
"""Fields that change neither a child's network nor its training step, but for the images' shape."""


def step_differences(spec: TrainingSpec, other: TrainingSpec) -> list[str]:
    """Return the fields in which two specs differ that change network or training step."""
    return [
        each.name
        for each in fields(TrainingSpec)
        if each.name not in OUTSIDE_STEPS and getattr(spec, each.name) != getattr(other, each.name)
    ]


def is_stackable(spec: TrainingSpec, other: TrainingSpec) -> bool:
    """Whether runs of these specs can share a process: one data set, and one network of children.

    Children can be stacked that have less in common: see `step_differences`.
    """
    # Without values, since those of one method may be refused for another.
    alike, other_alike = (replace(each, seed=0, values={}) for each in (spec, other))
    return alike == other_alike and traits_of(spec.model).is_stackable
