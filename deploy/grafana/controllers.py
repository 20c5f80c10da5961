"""The dashboard *Controllers*: what policies do, what it earns, and whether they learn well."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.panels import (
    Query,
    Row,
    choice,
    choices,
    dashboard,
    distribution,
    lines,
    marks,
)

_OF = 'controller=~"$controller|$other"'
_RUNS = f'{_OF}, run=~"$run"'
NEW_POLICY = "max by (controller) (changes(agent_policy_version{%s}[30s])) > 0"
"""Is above 0 for half a minute when a controller has a new policy version."""


def controllers() -> Dashboard:
    """Return the dashboard; it shows two controllers at a time."""
    names = "label_values(agent_runs, controller)"
    return dashboard(
        "Controllers",
        "What controllers decide, what it earns, and how their policies learn; two beside each "
        "other. Purple marks are new policy versions.",
        variables=[
            choice("controller", "Controller", names),
            choice("other", "Beside", names),
            choice(
                "hyperparameter",
                "Hyperparameter",
                f"label_values(agent_action_count{{{_OF}}}, hyperparameter)",
            ),
            choices("run", "Run", f"label_values(agent_run_action{{{_OF}}}, run)"),
        ],
        annotations=[marks("New policy", NEW_POLICY % _OF, "{{controller}}: new policy version")],
        rows=[_trends(), _distributions(), _runs(), _ends(), _learning(), *_ppo(), _shadows()],
    )


def _trends() -> Row:
    return Row(
        "Trends",
        [
            lines(
                "Mean action",
                "Of the last 5 minutes, from 0 (the low end of the range) to 1 (the high).",
                Query(
                    f"controller_hyperparameter:agent_action:mean5m{{{_OF}}}",
                    "{{controller}} {{hyperparameter}}",
                ),
                unit="percentunit",
                low=0,
                high=1,
            ),
            lines(
                "Mean reward",
                "Of the last 5 minutes. It should rise while a controller learns.",
                Query(f"controller:agent_reward:mean5m{{{_OF}}}", "{{controller}}"),
            ),
            lines(
                "Decisions a second",
                "One for each chunk that was reported, and one for each run that began.",
                Query(f"controller:agent_decisions:rate5m{{{_OF}}}", "{{controller}}"),
                Query(
                    f"sum by (controller, mode) "
                    f"(rate(agent_decisions_total{{{_OF}}}[$__rate_interval])) > 0",
                    "{{controller}} {{mode}}",
                ),
            ),
        ],
    )


def _distributions() -> Row:
    def of(name: str, more: str = "") -> str:
        chosen = f'controller="$controller"{more}'
        return f"sum by (le) (increase({name}_bucket{{{chosen}}}[$__rate_interval]))"

    return Row(
        "Distributions of $controller",
        [
            distribution(
                "Actions: $hyperparameter",
                "Where in its range the value was set; learning narrows it.",
                of("agent_action", ', hyperparameter="$hyperparameter"'),
                unit="percentunit",
            ),
            distribution("Rewards", "What chunks earned.", of("agent_reward")),
        ],
    )


def _runs() -> Row:
    return Row(
        "Active runs",
        [
            lines(
                "Action",
                "What each run's next chunk trains under, in the hyperparameter's own unit.",
                Query(f"agent_run_action{{{_RUNS}}}", "{{run}} {{hyperparameter}}"),
                steps=True,
            ),
            lines(
                "Reward",
                "What each run's last chunk earned.",
                Query(f"agent_run_reward{{{_RUNS}}}", "{{run}}"),
            ),
            lines(
                "Training loss",
                "Mean of each run's last chunk.",
                Query(f"agent_run_loss{{{_RUNS}}}", "{{run}}"),
                low=0,
            ),
        ],
    )


def _ends() -> Row:
    def by(label: str, name: str) -> Query:
        return Query(
            f"max by (controller, {label}) ({name}{{{_OF}}})", f"{{{{controller}}}} {{{{{label}}}}}"
        )

    return Row(
        "Runs",
        [
            lines("Runs", "In each state, of all times.", by("state", "agent_runs"), steps=True),
            lines(
                "How they ended",
                "Finished runs by outcome; those that diverged had a loss that is not finite.",
                by("outcome", "agent_finished_runs_total"),
                steps=True,
            ),
            lines(
                "Transitions",
                "Learned: a policy learned from them. Recorded: kept in the log only.",
                by("use", "agent_transitions_total"),
            ),
        ],
    )


def _learning() -> Row:
    def newest(name: str) -> Query:
        return Query(f"max by (controller) ({name}{{{_OF}}})", "{{controller}}")

    speed = f"controller:agent_transitions_learned:rate1h{{{_OF}}} * 3600"
    return Row(
        "Learning",
        [
            lines(
                "Policy version",
                "Rises by one with each update; 0 for a controller without a policy.",
                newest("agent_policy_version"),
                steps=True,
            ),
            lines(
                "Learning speed",
                "Transitions learned from, an hour; over the last hour.",
                Query(speed, "{{controller}}"),
                low=0,
            ),
            lines(
                "Staleness",
                "Policy versions between deciding and learning, in the last update; best near 0.",
                newest("agent_policy_staleness"),
                low=0,
            ),
            lines(
                "Next update",
                "Transitions that wait for it, to those that it takes. Long above 1: it is stuck.",
                newest("agent_rollout_filled_ratio"),
                unit="percentunit",
                low=0,
                high=1,
            ),
        ],
    )


_PPO = [
    ("approx_kl", "Approximate KL", "How far the last update moved the policy; 0.01 to 0.1."),
    ("clip_fraction", "Clip fraction", "Share of samples that were clipped; 0.05 to 0.3 is usual."),
    ("entropy", "Entropy", "How much is still explored; it falls as the policy becomes sure."),
    ("explained_variance", "Explained variance", "Of returns, by the value; 1 is best, 0 useless."),
    ("policy_loss", "Policy loss", "PPO's surrogate; it has no good level of its own."),
    ("value_loss", "Value loss", "Squared error of the value; it should fall."),
]


def _ppo() -> list[Row]:
    panels = [
        lines(
            title,
            description,
            Query(
                f'max by (controller) (agent_ppo{{{_OF}, statistic="{statistic}"}})',
                "{{controller}}",
            ),
            limit=0.5 if statistic == "approx_kl" else None,
            steps=True,
        )
        for statistic, title, description in _PPO
    ]
    return [Row("PPO's health", panels[:3]), Row("PPO's fit", panels[3:])]


def _shadows() -> Row:
    def lately(part: str, by: str) -> str:
        name = f"agent_shadow_difference_{part}"
        return f"sum by ({by}) (increase({name}{{{_OF}}}[$__rate_interval]))"

    both = "controller, hyperparameter"
    return Row(
        "Shadow runs",
        [
            lines(
                "Mean difference",
                "Between what shadow runs ran under and what would have been decided, as a share "
                "of the range; 0 is agreement.",
                Query(
                    f"{lately('sum', both)} / ({lately('count', both)} > 0)",
                    "{{controller}} {{hyperparameter}}",
                ),
                unit="percentunit",
                low=0,
            ),
            distribution("Differences", "All of them.", lately("bucket", "le"), unit="percentunit"),
        ],
    )
