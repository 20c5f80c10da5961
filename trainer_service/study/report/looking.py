"""The report's section of where children look, or what is missing for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from agent_service.domain.errors import AgentError
from trainer_service.study.report.page import Picture, Section, Table
from trainer_service.study.results.results import ResultsFolder
from trainer_service.study.results.rows import Row
from trainer_service.study.spec import StudySpec

if TYPE_CHECKING:
    from trainer_service.training.child_file import Manifest

TITLE = "Where children look"
COLUMNS = 9
"""Methods of one sheet."""


def where_children_look(
    spec: StudySpec, rows: Sequence[Row], folder: ResultsFolder, data: Path
) -> Section:
    """Return Grad-CAM sheets of the judged children of seed 0 (the paper's Figure 10)."""
    kept = {row.entry.name: folder.weights(row.entry.name) for row in rows}
    files = {name: file for name, file in kept.items() if file is not None}
    if not files:
        return _without("There are no weights of children of seed 0 in weights/, yet.")
    if find_spec("pytorch_grad_cam") is None:
        return _without("Grad-CAM is not installed: `pip install '.[report]'`.")
    try:
        return _looked(spec, rows, files, data)
    except AgentError as error:
        return _without(f"Nothing could be shown: {error}")


def _without(text: str) -> Section:
    return Section(title=TITLE, text=(text,))


def _looked(
    spec: StudySpec, rows: Sequence[Row], files: Mapping[str, bytes], data: Path
) -> Section:
    # torch takes seconds to import, and most reports do without.
    from trainer_service.study.report.grad_cam import draw_sheet, make_sheet
    from trainer_service.training.child_file import load_child
    from trainer_service.training.datasets import load_images
    from trainer_service.training.datasets.memory import Memory

    loaded = {name: load_child(file) for name, file in files.items()}
    own = {row.entry.name: row.judged[0].run_id for row in rows if row.judged[0].key.index == 0}
    children = {n: c for n, c in loaded.items() if c.manifest.run_id == own.get(n)}
    strangers = ", ".join(name for name in loaded if name not in children)
    left_out = f" Left out, as their weights are of another run: {strangers}." if strangers else ""
    if not children:
        return _without(f"There are no weights of this study's children of seed 0.{left_out}")
    # The images that children were trained on, with the labels that are true.
    images = load_images(replace(spec.training, label_noise=0.0), data, Memory.STREAMED)
    sheet = make_sheet(children, images.training)
    titles = [(name, spec.entry(name).label) for name in children]
    parts = [dict(titles[start : start + COLUMNS]) for start in range(0, len(titles), COLUMNS)]
    return Section(
        title=TITLE,
        text=(_TEXT + left_out,),
        tables=(_table(spec, {name: child.manifest for name, child in children.items()}),),
        pictures=tuple(
            Picture(name=f"looking-{i}", png=draw_sheet(sheet, part), caption=_CAPTION)
            for i, part in enumerate(parts, 1)
        ),
    )


def _table(spec: StudySpec, manifests: Mapping[str, Manifest]) -> Table:
    return Table(
        headings=("method", "run", "weights", "validation", "SHA-256"),
        cells=tuple(
            (
                spec.entry(name).label,
                manifest.run_id,
                manifest.which.value,
                f"{manifest.validation_score:.4f}",
                manifest.digest[:12],
            )
            for name, manifest in manifests.items()
        ),
        caption="Children that are shown, and the SHA-256 of their weights",
    )


_TEXT = (
    "Grad-CAM of the judged child of seed 0 of each method, on training images of which the most "
    "children see the true class: one image a class, the first such of those drawn. The map is of "
    "the true class, from the last stage whose features have more than one pixel. One child a "
    "method, and images chosen for agreement: this shows, and proves nothing."
)
_CAPTION = (
    "Training images, and where a child of each method looks for the true class (bright); without "
    "a map where it sees another (the paper's Figure 10)."
)
