"""`trainer-service datasets`: lists, checks and downloads data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent_service.serving.command import Commands, echo
from trainer_service.config import TrainerConfig

if TYPE_CHECKING:
    from trainer_service.study.terminal import Terminal
    from trainer_service.training.datasets.checks import Findings
    from trainer_service.training.datasets.values import DataSet, Stored

# Heavy imports are inside the commands, so that `--help` is fast.

_data_option = click.option(
    "--data",
    default=TrainerConfig().data,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the data sets.",
)


class _Downloadable(click.Choice[str]):
    """The data sets that can be downloaded, found on demand, since their modules import slowly."""

    def __init__(self) -> None:
        super().__init__(())
        del self.choices

    @cached_property
    def choices(self) -> Sequence[str]:  # type: ignore[override]
        from trainer_service.training.datasets.catalog import catalog

        return [name for name, entry in catalog().items() if entry.download is not None]


@click.group(cls=Commands, invoke_without_command=True)
@click.pass_context
def datasets(context: click.Context) -> None:
    """Show the data sets: title, terms of use, source, folder and splits."""
    if context.invoked_subcommand is not None:
        return
    from trainer_service.training.datasets.catalog import catalog

    console = _console()
    for name, entry in catalog().items():
        console.print(f"[bold]{name}[/bold]  {entry.title}", markup=True)
        for title in ("terms", "get", "put", "splits"):
            console.print(f"    {title + ':':8}{getattr(entry, title)}")
    console.print(
        "Without a test split, a fifth of training is drawn by class; without a validation split, "
        "a share of the rest."
    )


@datasets.command()
@click.argument("name")
@_data_option
@click.option(
    "--image-size", type=int, help="Image width and height in pixels (default: the set's own)."
)
def check(name: str, data: Path, image_size: int | None) -> None:
    """Count images by split and class, and find duplicates and blank images.

    NAME is a value of `--dataset`, as fer2013, folder:faces or npz:faces.
    """
    from trainer_service.training.datasets.catalog import find_dataset, read_stored
    from trainer_service.training.datasets.checks import find
    from trainer_service.training.datasets.listing import in_words
    from trainer_service.training.datasets.load import drawn_counts
    from trainer_service.training.datasets.pixels import with_sizes
    from trainer_service.training.datasets.values import TEST
    from trainer_service.training.spec import TEST_SHARE, TrainingSpec

    spec = TrainingSpec(dataset=name, image_size=image_size, chunks=1)  # validates both options
    stored = read_stored(name, data)
    stored = replace(stored, splits=with_sizes(stored.splits, spec.image_size))
    console = _console()
    with console.status("reading every image"):
        findings = find(stored)
    _show_counts(console, name, find_dataset(name), stored, findings)
    for split, count in drawn_counts(stored.splits, spec).items():
        share = TEST_SHARE if split == TEST else spec.validation_share
        console.print(f"{split}: {count:,} drawn from training, {share:.0%}")
    _show_oddities(console, findings)
    if stored.left_out:
        console.print(f"not read: {in_words(stored.left_out)}")


@datasets.command()
@click.argument("name", type=_Downloadable())
@_data_option
def download(name: str, data: Path) -> None:
    """Download and unpack a freely available data set."""
    from trainer_service.training.datasets.catalog import find_dataset

    bring = find_dataset(name).download
    assert bring is not None, "a choice"
    bring(data / name)
    echo(f"{name} is in {data / name}; check it: trainer-service datasets check {name}")


def _console() -> Terminal:
    from trainer_service.study.terminal import Terminal

    console = Terminal(highlight=False)
    if not console.is_terminal:
        console.width = 160  # a file or pipe has no width
    return console


def _show_counts(
    console: Terminal, name: str, entry: DataSet, stored: Stored, findings: Findings
) -> None:
    """Print a row per class and a column per split, with published counts that differ."""
    from rich.table import Table

    from trainer_service.training.datasets.checks import published_counts

    published = published_counts(entry, stored)
    console.print(f"{name}: images by class and split")
    table = Table()
    table.add_column("class")
    for split in findings.counts:
        table.add_column(split, justify="right")
    for label, class_name in enumerate(stored.class_names):
        cells = [
            _count(counts[label], published[split][label] if published else None)
            for split, counts in findings.counts.items()
        ]
        table.add_row(class_name, *cells)
    table.add_section()
    sums = [
        _count(sum(counts), sum(published[split]) if published else None)
        for split, counts in findings.counts.items()
    ]
    table.add_row("all", *sums)
    console.print(table)
    console.print(_verdict(entry, is_as_published=published == findings.counts))


def _count(count: int, published: int | None) -> str:
    if published is None or published == count:
        return f"{count:,}"
    return f"{count:,}, published {published:,}"


def _verdict(entry: DataSet, *, is_as_published: bool) -> str:
    if not entry.published:
        return "there are no published counts to compare with"
    if is_as_published:
        return f"all counts are as published ({entry.cited})"
    return f"the counts are NOT as published ({entry.cited})"


def _show_oddities(console: Terminal, findings: Findings) -> None:
    lines = [f"{findings.duplicates:,} images are exact duplicates of another one"]
    lines += [f"  {count:,} within {split}" for split, count in findings.duplicates_within.items()]
    lines += [
        f"  {count:,} of {second} are also in {first}"
        for (first, second), count in findings.shared.items()
    ]
    lines.append(f"{findings.conflicts:,} groups of duplicates carry conflicting labels")
    lines.append(f"{findings.blank:,} images are blank")
    if any(findings.shared.values()):
        lines.append("--deduplicate removes images of validation and test from training")
    for line in lines:
        console.print(line)
