"""The dashboard *Training*: what children do, how fast, and on what."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.controllers import NEW_POLICY
from deploy.grafana.panels import Query, Row, choices, dashboard, lines, marks, shares

_TRAINER = 'instance=~"$trainer"'
_RUNS = f'{_TRAINER}, run=~"$run"'


def training() -> Dashboard:
    """Return the dashboard."""
    return dashboard(
        "Training",
        "Children that train now: losses, scores, the gap between them, what they train under, how "
        "fast, and on what. Purple marks are new policy versions.",
        variables=[
            choices("trainer", "Trainer", "label_values(trainer_runs, instance)"),
            choices("run", "Run", f"label_values(trainer_run_progress{{{_TRAINER}}}, run)"),
        ],
        annotations=[marks("New policy", NEW_POLICY % "", "{{controller}}: new policy version")],
        rows=[_fit(), _steering(), _throughput(), _queue()],
    )


def _fit() -> Row:
    validation, training = (
        f'trainer_run_score{{{_RUNS}, split="{split}"}}' for split in ("validation", "train")
    )
    return Row(
        "Running runs",
        [
            lines(
                "Loss",
                "Mean cross-entropy of the last chunk.",
                Query(f"trainer_run_loss{{{_RUNS}}}", "{{run}} {{split}}"),
                low=0,
            ),
            lines(
                "Score",
                "Mean score of the last chunk's batches; training scores are taken with "
                "regularization on.",
                Query(f"trainer_run_score{{{_RUNS}}}", "{{run}} {{split}}"),
                low=0,
                high=1,
            ),
            lines(
                "Gap",
                "Validation score less training score, the paper's reward; falls if it overfits.",
                Query(f"{validation} - ignoring (split) {training}", "{{run}}"),
            ),
        ],
    )


def _steering() -> Row:
    return Row(
        "What they train under",
        [
            lines(
                "Hyperparameters",
                "Of the last chunk, each in its own unit.",
                Query(f"trainer_run_hyperparameter{{{_RUNS}}}", "{{run}} {{hyperparameter}}"),
                steps=True,
            ),
            shares(
                "Progress",
                "Share of its chunks that a run has trained.",
                Query(f"trainer_run_progress{{{_RUNS}}}", "{{run}}"),
            ),
        ],
    )


def _quantiles(name: str) -> list[Query]:
    rate = f"sum by (le) (rate({name}_bucket{{{_TRAINER}}}[$__rate_interval]))"
    return [Query(f"histogram_quantile({q}, {rate})", f"{q:.0%} within") for q in (0.5, 0.9, 0.99)]


def _throughput() -> Row:
    images = f"rate(trainer_images_total{{{_TRAINER}}}[$__rate_interval])"
    return Row(
        "Throughput",
        [
            lines(
                "Images a second",
                "That went through children in whole chunks, forwards only for validation.",
                Query(f"sum by (instance, split) ({images})", "{{instance}} {{split}}"),
                Query("split:trainer_images:rate5m", "all, 5 minutes, {{split}}"),
                low=0,
            ),
            lines(
                "Time of a chunk",
                "Training and validation.",
                *_quantiles("trainer_chunk_seconds"),
                unit="s",
                low=0,
            ),
            lines(
                "Time of a report to the agent",
                "Between two chunks; waiting for an agent that is away is part of it.",
                *_quantiles("trainer_agent_call_seconds"),
                unit="s",
                low=0,
            ),
        ],
    )


def _queue() -> Row:
    return Row(
        "Queue and devices",
        [
            lines(
                "Runs",
                "In each state, of all times.",
                Query(
                    f"sum by (instance, state) (trainer_runs{{{_TRAINER}}})",
                    "{{instance}} {{state}}",
                ),
                steps=True,
            ),
            lines(
                "Held actions and diverged runs",
                "How often a run waited for an agent that was away, and how many runs ended by a "
                "loss that is not finite, since the trainer started.",
                Query(
                    f"trainer_agent_held_actions_total{{{_TRAINER}}}", "{{instance}} held actions"
                ),
                Query(f"trainer_diverged_runs_total{{{_TRAINER}}}", "{{instance}} diverged"),
                low=0,
                steps=True,
            ),
            lines(
                "Memory of the device",
                "Taken by all processes; of a CPU, the machine's.",
                Query(f"trainer_device_memory_bytes{{{_TRAINER}}}", "{{instance}} {{device}}"),
                unit="bytes",
                low=0,
            ),
        ],
    )
