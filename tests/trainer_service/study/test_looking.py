"""Where children look: Grad-CAM by its equation, and a section that says what is missing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from matplotlib.image import imread

from agent_service.domain.errors import InvalidArgument
from tests.trainer_service.specs import CHILD, CPU
from tests.trainer_service.study.simulated import judged, result
from trainer_service.study.report.grad_cam import layer_of, look
from trainer_service.study.report.report import write_report
from trainer_service.study.results.results import ResultsFolder
from trainer_service.study.spec import StudySpec, table_1
from trainer_service.training.child.models import Model
from trainer_service.training.child.network import build_child
from trainer_service.training.child_file import child_file, load_child
from trainer_service.training.chunk import Which
from trainer_service.training.datasets import load_images
from trainer_service.training.loop import ChildTraining
from trainer_service.training.spec import Method, TrainingSpec

TRAINING = replace(CHILD, training_size=100, label_noise=0.2, chunk_size=10)
STUDY = StudySpec(
    seeds=1,
    training=TRAINING,
    methods=table_1([Method.VANILLA, Method.D, Method.NI]),
)
IMAGES = load_images(TRAINING, Path("."))


def weights_of(training: TrainingSpec, run_id: str) -> bytes:
    """Train a child; return its best weights as a file."""
    child = ChildTraining(training, IMAGES, CPU)
    for _ in range(child.chunks):
        child.train_chunk({})
    state, scores = child.state(), child.finish()
    about = {"run_id": run_id, "training": training, "inputs": child.inputs}
    return child_file(state, scores, which=Which.BEST, **about)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with weights of one method, those again as if they were another's, and no more."""
    path = tmp_path_factory.mktemp("study")
    ResultsFolder(path).open(STUDY)
    for entry in STUDY.methods:
        child = judged(entry, ResultsFolder(path).plan(), 0)
        ResultsFolder(path).add(result(child, lambda _tau: 0.2))
        if entry.name == "vanilla":
            data = weights_of(child.spec.training, child.run_id)
            for name in ("vanilla", "d"):
                ResultsFolder(path).add_weights(name, data)
    return path


def test_a_map_is_the_equations(folder: Path) -> None:
    """ReLU of the features, weighted by the mean gradient of the class, at the image's size.

    Eqs. 1 and 2 of Selvaraju et al. 2017; its least is 0, its greatest 1.
    """
    child = load_child((folder / "weights" / "vanilla.safetensors").read_bytes())
    images, labels = IMAGES.training.images[:4], IMAGES.training.labels[:4]
    assert isinstance(images, torch.Tensor)
    features: list[torch.Tensor] = []
    handle = child.network.get_submodule("layer3").register_forward_hook(
        lambda _module, _inputs, output: features.append(output)
    )
    scale, shift = child.manifest.inputs.normalization()
    logits = child.network(images * scale + shift)
    handle.remove()
    (gradients,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), features)
    weighted = (gradients.mean((2, 3), keepdim=True) * features[0]).sum(1, keepdim=True).relu()
    by_hand = torch.nn.functional.interpolate(weighted, images.shape[-2:], mode="bilinear")

    found = look(child, images, labels)

    assert found.shape == (4, 8, 8)
    for ours, theirs in zip(by_hand[:, 0].detach().numpy(), found, strict=True):
        # The package scales before it enlarges, which for linear maps is the same.
        assert np.allclose(scaled(ours), scaled(theirs), atol=1e-3)
        assert (theirs.min(), theirs.max()) == pytest.approx((0, 1), abs=1e-3)


def scaled(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return values with 0 as their least and 1 as their greatest."""
    low, high = values.min(), values.max()
    return np.asarray((values - low) / (high - low))


@pytest.mark.parametrize(("size", "layer"), [(8, "layer3"), (16, "layer4")])
def test_the_last_stage_with_a_map_is_looked_at(size: int, layer: str) -> None:
    """Of 8 pixels the fourth stage has one."""
    network = build_child(TRAINING, (1, size, size), classes=2)

    assert layer_of(network, TRAINING.model, (1, size, size)) == layer


@pytest.mark.parametrize("model", ["vit_b_16", "mlp"])
def test_features_without_height_and_width_are_no_map(model: str) -> None:
    """The error names the model."""
    spec = replace(TRAINING, model=Model(model), width=1.0)
    with torch.device("meta"):
        network = build_child(spec, (3, 32, 32), classes=2)

    with pytest.raises(InvalidArgument, match=f"{model} has no map of features"):
        layer_of(network, spec.model, (3, 32, 32))


def test_a_report_shows_where_children_look(folder: Path) -> None:
    """Those whose weights are of this study; the child of another run is left out, and named."""
    page = write_report(folder, data=Path(".")).page.read_text()

    assert "Left out, as their weights are of another run: d." in page
    assert 'id="looking-1"' in page
    assert (
        load_child((folder / "weights" / "vanilla.safetensors").read_bytes()).manifest.digest[:12]
        in page
    )
    pixels = imread(folder / "pictures" / "looking-1.png")
    assert np.ptp(pixels[..., 0] - pixels[..., 2]) > 0.5, "a map has colours, a digit has none"


def test_the_section_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    """Weights, data, or a file that is whole; the report is written all the same."""
    assert "Where children look" not in write_report(folder).text.read_text(), "nobody asked"

    study = ResultsFolder(tmp_path)
    study.write_study(ResultsFolder(folder).study())
    for one in ResultsFolder(folder).results():
        study.add(one)
    assert "There are no weights of children" in write_report(tmp_path, Path(".")).text.read_text()

    data = (folder / "weights" / "vanilla.safetensors").read_bytes()
    study.add_weights("vanilla", data[:-9])
    text = write_report(tmp_path, Path(".")).text.read_text()
    assert "Nothing could be shown: " in text
    assert "no intact safetensors file" in text
