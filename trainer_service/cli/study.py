"""The commands of studies: `compare`, `report` and `merge`."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent_service.serving.access import Access, access_options
from agent_service.serving.command import LONGEST_SECONDS, Amount, Count, echo
from agent_service.wire.addresses import AGENT_PORT, TRAINER_PORT, address_to_call
from trainer_service.cli.options import training_options, training_spec
from trainer_service.config import TrainerConfig

if TYPE_CHECKING:
    from trainer_service.study.spec import StudySpec

_DEFAULTS = TrainerConfig()
_PATH = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("study", required=False)
@training_options
@click.option(
    "--methods", default="vanilla,ni,d,dni,rni,rd", help="Rows of Table 1, comma-separated."
)
@click.option("--seeds", default=3, help="Number of evaluated children per method.")
@click.option(
    "--learning-runs",
    type=Count(1, 1000),
    default=12,
    help="Children that each controller learns on.",
)
@click.option("--reward", default="gap", help="gap, validation or improvement.")
@click.option("--rollout-size", type=int, help="Transitions per policy update.")
@click.option("--agent", default=_DEFAULTS.agent, help="HOST:PORT of the agent service.")
@click.option(
    "--trainer",
    "trainers",
    multiple=True,
    default=[_DEFAULTS.listen],
    help="HOST:PORT of a trainer service; may be repeated.",
)
@access_options("TRAINER_SERVICE")
@click.option("--only", default="", help="Methods to run, comma-separated (default: all).")
@click.option("--only-seeds", default="", help="Seeds to evaluate, comma-separated (default: all).")
@click.option(
    "--only-problems", default="", help="Problems to run, comma-separated (default: all)."
)
@click.option(
    "--minutes",
    type=Amount(0, LONGEST_SECONDS / 60),
    help="Time limit; the same command resumes.",
)
@click.option(
    "--output",
    required=True,
    type=_PATH,
    help="Folder of results; an unfinished study resumes there.",
)
@click.pass_context
def compare(
    context: click.Context,
    /,
    study: str | None,
    agent: str,
    trainers: tuple[str, ...],
    access: Access,
    only: str,
    only_seeds: str,
    only_problems: str,
    minutes: float | None,
    output: Path,
    **options: Any,
) -> None:
    """Compare methods: train controllers, search values, and evaluate all on fresh children.

    STUDY is a TOML file, or a preset: cifar100, fer2013, affectnet (the paper's), digits,
    fer2013-small or universal. Without it the options up to --rollout-size define the study.
    """
    from trainer_service.study.command import run_study
    from trainer_service.study.run.part import Part
    from trainer_service.study.study_file import read_study

    agent = address_to_call(agent, "agent", port=AGENT_PORT).target
    trainers = tuple(address_to_call(t, "trainers", port=TRAINER_PORT).target for t in trainers)
    if study is not None:
        _refuse_given(context, options)
    spec = _study_of_options(options) if study is None else read_study(study)
    part = Part(
        only=_words(only),
        seeds=tuple(map(_seed, _words(only_seeds))),
        problems=_words(only_problems),
        minutes=minutes,
    )
    # SIGTERM, as of a batch system, cancels queued and running runs like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_study(spec, output, agent=agent, trainers=trainers, access=access, part=part)


def _refuse_given(context: click.Context, names: Iterable[str]) -> None:
    """Raise UsageError for options that the study file sets."""
    options = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = options[name]
            raise click.UsageError(f"{option} is set by the study; change it there")


def _study_of_options(options: dict[str, Any]) -> StudySpec:
    from agent_service.controllers.ppo import PPOSettings
    from agent_service.domain.checks import member
    from agent_service.domain.rewards import Reward
    from trainer_service.study.spec import StudySpec, table_1

    size = options.pop("rollout_size")
    rows = table_1(
        _words(options.pop("methods")),
        reward=member(Reward, options.pop("reward"), "reward"),
        ppo=PPOSettings() if size is None else PPOSettings(rollout_size=size),
    )
    return StudySpec(
        seeds=options.pop("seeds"),
        budget=options.pop("learning_runs"),
        methods=rows,
        references=tuple(row.name for row in rows if row.name in ("d", "dni")),
        training=training_spec(options),
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _seed(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise click.BadParameter(f"{word!r} is not a number", param_hint="--only-seeds") from None


@click.command()
@click.argument("folder", type=_PATH)
@click.option("--data", type=_PATH, help="Folder of the data sets, for Grad-CAM images.")
def report(folder: Path, data: Path | None) -> None:
    """Write the report of a study's finished results: page, text and pictures.

    Of a study of several problems, also the report of each.
    """
    from trainer_service.study.command import show_report

    show_report(folder, data)


@click.command()
@click.argument("parts", nargs=-1, required=True, type=_PATH)
@click.option(
    "--output", required=True, type=_PATH, help="Folder of all results; may contain earlier ones."
)
def merge(parts: tuple[Path, ...], output: Path) -> None:
    """Merge parts of one study from several folders."""
    from trainer_service.study.results.merging import merge as merge_parts

    count, quoted = merge_parts(parts, output), shlex.quote(str(output))
    echo(f"{count} results are in {output}; show them: trainer-service report {quoted}")
