"""The commands that ask what stored policies would have done, through a running service."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent_service.analysis.agreement import CLOSE
from agent_service.analysis.estimates import CONFIDENCE, estimate_return, require_support
from agent_service.analysis.output import Format, check_output, format_options, write_table
from agent_service.analysis.reading import archive_option, reading
from agent_service.analysis.tables import Kind, Table
from agent_service.domain.specs import PPOSettings
from agent_service.serving.access import Target, agent_option
from agent_service.serving.command import Amount, Count, echo

if TYPE_CHECKING:
    from agent_service.analysis.agreement import Agreement
    from agent_service.analysis.estimates import Estimate
    from agent_service.analysis.evaluation import Evaluation

# Policies are imported inside the commands: `--help` answers at once, and gRPC reads its settings
# from the environment when it is imported.


@click.command()
@agent_option
@click.argument("controller")
@click.option("--policy", type=Count(min=1), required=True, help="The policy version to replay.")
@click.option("--run", "run_id", default="", help="Only this run's.")
@click.option(
    "--against",
    type=Count(min=1),
    help="Another policy version to compare with; else what was decided.",
)
@archive_option
@format_options(Format.TEXT, Format.CSV, Format.JSON, Format.PARQUET)
def replay(
    agent: Target,
    *,
    controller: str,
    policy: int,
    run_id: str,
    against: int | None,
    archive: Path | None,
    form: Format,
    output: Path | None,
) -> None:
    """Show what a policy version would have decided on the states of the log.

    Its mean action stands beside what was decided, both in the hyperparameters' own units. How far
    the two agree comes last; other formats than text tell it on standard error.
    """
    from agent_service.analysis.policies import read_policy
    from agent_service.analysis.replay import Replay

    check_output(form, output)
    with reading(agent, archive) as log:
        other = None if against is None else read_policy(log, controller, against)
        course = Replay(read_policy(log, controller, policy), against=other)
        records = course.records(log.transitions(controller=controller, run_id=run_id))
        write_table(Table(records=records, fields=course.fields), form, output)
    _tell(itertools.starmap(_agreement_line, course.agreements().items()), form, output)


@click.command()
@agent_option
@click.argument("run")
@archive_option
@format_options(Format.TEXT, Format.CSV, Format.JSON, Format.PARQUET)
def agreement(
    agent: Target, *, run: str, archive: Path | None, form: Format, output: Path | None
) -> None:
    """Show what a run ran under beside what was decided for it, chunk by chunk.

    Of a shadow run that is how far its script and the agent agree; of others, what was held while
    the agent was away, or limited. Values are in the hyperparameters' own units. How far the two
    agree comes last; other formats than text tell it on standard error.
    """
    from agent_service.analysis.applied import read_applied

    check_output(form, output)
    with reading(agent, archive) as log:
        read = read_applied(log, run)
    write_table(read.table(), form, output)
    _tell(itertools.starmap(_agreement_line, read.agreements().items()), form, output)


@click.command()
@agent_option
@click.option(
    "--controller", required=True, metavar="BEHAVIOUR", help="Whose runs tell: ppo or random."
)
@click.option(
    "--target",
    required=True,
    metavar="TARGET[:VERSION]",
    help="Whose return is estimated: ppo, by default the newest policy version, or random.",
)
@click.option(
    "--gamma",
    type=Amount(0, 1),
    default=PPOSettings().gamma,
    help="Discount of the return, for each chunk.",
)
@click.option("--horizon", type=Count(min=1), help="Chunks that count; else the longest run's.")
@click.option(
    "--min-ess",
    type=Amount(min=1),
    default=10.0,
    help="Smallest effective number of runs at any chunk; refused below.",
)
@click.option(
    "--max-outside",
    type=Amount(0, 1),
    default=0.05,
    help="Largest share of the target's runs with a sample that the behaviour cannot draw.",
)
@click.option("--seed", type=Count(min=0), default=0, help="Of the bootstrap.")
@archive_option
@format_options(Format.TEXT, Format.CSV, Format.JSON, Format.PARQUET)
def estimate(
    agent: Target, *, archive: Path | None, form: Format, output: Path | None, **options: Any
) -> None:
    """Estimate the return that TARGET would have had, from BEHAVIOUR's runs.

    By per-decision weighted importance sampling with the logged probabilities, over finished runs
    whose decisions were all sampled. TARGET is its sampling policy, as a learning run has it, and
    not its mean action. The table has each chunk's effective number of runs; the estimate comes
    last; other formats than text tell it on standard error.
    """
    from agent_service.analysis.evaluation import read_evaluation

    check_output(form, output)
    target, version = _target(options["target"])
    behaviour = options["controller"]
    with reading(agent, archive) as log:
        read = read_evaluation(
            log,
            behaviour=behaviour,
            target=target,
            version=version,
            horizon=options["horizon"],
        )
    found = estimate_return(
        read.episodes, gamma=options["gamma"], horizon=read.horizon, seed=options["seed"]
    )
    require_support(found, min_effective=options["min_ess"], max_outside=options["max_outside"])
    write_table(_by_chunk(found), form, output)
    _tell(_estimate_lines(found, read, options), form, output)


def _target(text: str) -> tuple[str, int]:
    """Return a target's name and policy version, 0 for the newest; raises BadParameter."""
    name, colon, version = text.partition(":")
    if colon and not (version.isdecimal() and int(version) > 0):
        raise click.BadParameter(f"{text!r}: after the colon stands a version from 1", None, None)
    return name, int(version or 0)


def _by_chunk(found: Estimate) -> Table:
    courses = {
        "effective_runs": found.effective_runs.tolist(),
        "mean_weight": found.mean_weights.tolist(),
        "return_so_far": found.returns.tolist(),
    }
    return Table(
        records=[
            {"chunk_index": chunk, **dict(zip(courses, values, strict=True))}
            for chunk, values in enumerate(zip(*courses.values(), strict=True), start=1)
        ],
        fields={"chunk_index": Kind.INTEGER} | dict.fromkeys(courses, Kind.NUMBER),
    )


def _estimate_lines(found: Estimate, read: Evaluation, options: Mapping[str, Any]) -> Iterator[str]:
    smallest = int(found.effective_runs.argmin())
    left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(read.left_out.items()))
    yield (
        f"return of {options['target']}: {found.value:.6g}, {CONFIDENCE:.0%} within "
        f"[{found.low:.6g}, {found.high:.6g}]; {read.horizon} chunks, discount {options['gamma']:g}"
    )
    yield f"return of {options['controller']} itself, in the same runs: {found.behaviour:.6g}"
    yield (
        f"effective runs: {found.effective_runs[smallest]:.1f} of {found.runs} at the least, "
        f"at chunk {smallest + 1}; left out: {left_out or 'none'}"
    )
    if found.outside > 0:
        yield (
            f"{found.outside:.2%} of the target's runs would leave what the behaviour covers: this "
            "is the return of a target that draws such samples again"
        )


def _agreement_line(name: str, agreement: Agreement) -> str:
    correlation = agreement.correlation
    return (
        f"{name}: mean difference {agreement.mean_difference:.4g} over {agreement.decisions} "
        f"decisions, correlation {'none' if correlation is None else format(correlation, '.3f')}, "
        f"{agreement.close:.1%} within {CLOSE:.0%} of the range"
    )


def _tell(lines: Iterable[str], form: Format, output: Path | None) -> None:
    """Write what a table comes to: after text, or apart from what another program reads."""
    for line in lines:
        echo(line, err=form is not Format.TEXT or output is not None)
