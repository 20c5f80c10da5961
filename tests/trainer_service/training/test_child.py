"""Children: torchvision's classifiers, where regularizers stand in them, what does not fit."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from agent_service.domain.errors import InvalidArgument
from tests.trainer_service.specs import CPU
from trainer_service.training.child.models import Model, traits_of
from trainer_service.training.child.network import build_child, input_size
from trainer_service.training.child.small import SMALL_CHILDREN
from trainer_service.training.datasets import Images, Split
from trainer_service.training.loop import ChildTraining
from trainer_service.training.regularizers.sites import Site
from trainer_service.training.sites import stage_ends, watch_pass
from trainer_service.training.spec import Method, Start, TrainingSpec
from trainer_service.training.vision import StochasticDepth, models

SPEC = TrainingSpec(chunks=1, batch_size=4, chunk_size=2, validation_batches=1)


def noise_images(size: int, channels: int) -> Images:
    """Return few images of noise, of three classes."""
    draws = torch.Generator().manual_seed(0)
    shape = (12, channels, size, size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws)
    split = Split(images, torch.arange(12) % 3)
    return Images(training=split, validation=split, test=split, class_names=("a", "b", "c"))


@pytest.fixture
def empty_hub(tmp_path: Path) -> Iterator[Path]:
    """Let torch look for weights in an empty folder."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    yield tmp_path
    torch.hub.set_dir(before)


def test_every_classifier_of_torchvision_has_its_name_here() -> None:
    """The lists are equal, but for the small children."""
    theirs = {model.value for model in Model if model not in SMALL_CHILDREN}
    assert theirs == set(models.list_models(module=models))


@pytest.mark.parametrize("model", [m for m in Model if traits_of(m).has_stem])
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (64, 3)])
def test_resnets_are_torchvisions(model: Model, size: int, channels: int) -> None:
    """At width 1 the parameters are those of torchvision's model, but for stem and classifier."""
    with torch.device("meta"):
        child = build_child(replace(SPEC, model=model), (channels, size, size), classes=7)
        theirs = models.get_model(model.value, num_classes=7)

    ours = {n: p.shape for n, p in child.named_parameters() if n != "conv1.weight"}
    assert ours == {n: p.shape for n, p in theirs.named_parameters() if n != "conv1.weight"}
    stem = child.get_submodule("conv1")
    assert stem.stride == ((1, 1) if size < 64 else (2, 2))
    assert watch_pass(child, (channels, size, size))[-1].shape == (7,)


TRAINED = [
    (Model.DENSENET121, 32),
    (Model.EFFICIENTNET_B0, 32),
    (Model.MOBILENET_V3_SMALL, 32),
    (Model.SQUEEZENET1_1, 64),
    (Model.VIT_B_32, 64),
]


@pytest.mark.parametrize(("model", "size"), TRAINED)
def test_other_models_train_with_five_sites_of_dropout(model: Model, size: int) -> None:
    """A chunk on grey images; no regularization but the method's."""
    spec = replace(SPEC, model=model, method=Method.RD)
    training = ChildTraining(spec, noise_images(size, 1), CPU)

    chunk = training.train_chunk({"dropout": 0.1})

    assert all(loss > 0 for loss in chunk.losses)
    child = training.passes.child
    assert sum(isinstance(m, Site) for m in child.modules()) == 5
    own = [m for m in child.modules() if isinstance(m, nn.Dropout | StochasticDepth)]
    assert all(module.p == 0 for module in own)


FAMILIES = [
    Model.ALEXNET,
    Model.CONVNEXT_TINY,
    Model.DENSENET121,
    Model.EFFICIENTNET_B0,
    Model.GOOGLENET,
    Model.INCEPTION_V3,
    Model.MAXVIT_T,
    Model.MNASNET0_5,
    Model.MOBILENET_V2,
    Model.MOBILENET_V3_SMALL,
    Model.SHUFFLENET_V2_X0_5,
    Model.SQUEEZENET1_1,
    Model.SWIN_T,
    Model.SWIN_V2_T,
    Model.VGG11_BN,
    Model.VIT_B_32,
]


@pytest.mark.parametrize("model", [*FAMILIES, Model.REGNET_X_400MF])
def test_stages_end_at_four_sizes_or_quarters(model: Model) -> None:
    """One of each family: four modules, in the order of a pass."""
    # RegNet's widths are computed by tensors, which must have values.
    with torch.device("cpu" if model is Model.REGNET_X_400MF else "meta"):
        child = build_child(replace(SPEC, model=model), (3, 224, 224), classes=3)

    ends = stage_ends(child, model, channels=3)
    shapes = {call.name: call.shape for call in watch_pass(child, (3, 224, 224))}

    assert len(set(ends)) == 4
    sizes = [shapes[end][1] for end in ends]
    assert sizes == sorted(sizes, reverse=True)


def test_a_grey_first_layer_is_that_of_the_image_in_three_channels() -> None:
    """Weights are summed over the colours: the same features, from one channel."""
    spec = replace(SPEC, model=Model.MOBILENET_V2)
    torch.manual_seed(1)
    colour = build_child(spec, (3, 32, 32), classes=3).get_submodule("features.0.0")
    torch.manual_seed(1)
    grey = build_child(spec, (1, 32, 32), classes=3).get_submodule("features.0.0")
    image = torch.randn(1, 1, 32, 32)

    assert torch.allclose(grey(image), colour(image.expand(1, 3, 32, 32)), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "size"),
    [(Model.VGG11, 8), (Model.VIT_B_16, 40), (Model.MAXVIT_T, 64), (Model.INCEPTION_V3, 32)],
)
def test_images_that_do_not_fit_a_model_are_refused(model: Model, size: int) -> None:
    """Too small, or not a multiple of a patch: before any training, naming model and size."""
    with pytest.raises(InvalidArgument, match=str(size)) as raised:
        ChildTraining(replace(SPEC, model=model), noise_images(size, 3), CPU)

    assert [v.field for v in raised.value.violations] == ["model"]


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("is_pickle", [False, True])
def test_imagenets_weights_run_no_code(empty_hub: Path, is_pickle: bool) -> None:
    """A torn file or a pickle of other things is refused; the error says which is wanted where."""
    file = empty_hub / "checkpoints" / Path(models.get_model_weights("resnet18").DEFAULT.url).name
    if is_pickle:
        torch.save({"fc.bias": Touch(empty_hub / "ran")}, file)
    else:
        file.write_bytes(b"torn")
    spec = replace(SPEC, model=Model.RESNET18, start=Start.IMAGENET)

    with pytest.raises(
        InvalidArgument, match=f"cannot be read: .*put .*{file.name} into {empty_hub}"
    ):
        build_child(spec, (3, 48, 48), classes=7)
    assert not (empty_hub / "ran").exists()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("model", "head"), [(Model.RESNET18, "fc"), (Model.SQUEEZENET1_1, "classifier.1")]
)
def test_imagenets_weights_are_taken(
    empty_hub: Path, model: Model, head: str, channels: int
) -> None:
    """All but the classifier; images of any size come in the size that the weights expect."""
    weights = models.get_model_weights(model.value).DEFAULT
    theirs = models.get_model(model.value)
    torch.save(theirs.state_dict(), empty_hub / "checkpoints" / Path(weights.url).name)
    spec = replace(SPEC, model=model, start=Start.IMAGENET)

    training = ChildTraining(spec, noise_images(20, channels), CPU)

    assert input_size(spec) == 224
    ours = training.passes.child.state_dict()
    stem = next(name for name, tensor in ours.items() if tensor.ndim == 4)
    for name, tensor in theirs.state_dict().items():
        if not name.startswith(head) and name != stem:
            assert torch.equal(ours[name], tensor)
    seen: list[torch.Size] = []
    training.passes.child.register_forward_pre_hook(lambda _m, x: seen.append(x[0].shape))
    training.passes.evaluate(next(training._validation.batches([torch.zeros(1).long()])))
    assert seen == [torch.Size([1, channels, 224, 224])]
