"""The dashboard *Service*: whether both services are well, for who runs them."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.panels import Query, Row, choices, dashboard, is_true, lines, number

_OF = 'instance=~"$instance"'
_CALLS = f'{_OF}, grpc_service=~"agent_service.*|trainer_service.*"'


def service() -> Dashboard:
    """Return the dashboard."""
    return dashboard(
        "Service",
        "Both services: calls, errors, latency, the store, the learner, processes and disks.",
        variables=[choices("instance", "Service", "label_values(up, instance)")],
        rows=[_now(), _calls(), _latency(), _store(), _learner(), _processes(), _scrapes()],
    )


def _now() -> Row:
    return Row(
        "Now",
        [
            is_true(
                "Up", "Whether Prometheus can scrape it.", Query(f"up{{{_OF}}}", "{{instance}}")
            ),
            is_true(
                "Store readable",
                "Whether the agent could read its store for its last page.",
                Query(f"agent_store_readable{{{_OF}}}", "{{instance}}"),
            ),
            number(
                "Alerts that fire",
                "Each has a summary and what to do first: Prometheus' page of alerts.",
                Query('count(ALERTS{alertstate="firing"}) or vector(0)', "alerts"),
                bad_from=1,
            ),
            number(
                "Calls in flight",
                "Begun and not ended; a stream that follows something is one.",
                Query(
                    f"sum(grpc_server_started_total{{{_CALLS}}})"
                    f" - sum(grpc_server_handled_total{{{_CALLS}}})",
                    "calls",
                ),
                bad_from=1000,
            ),
        ],
    )


def _calls() -> Row:
    def rate(by: str, more: str = "") -> str:
        chosen = f"{_CALLS}{more}"
        return f"sum by ({by}) (rate(grpc_server_handled_total{{{chosen}}}[$__rate_interval]))"

    return Row(
        "Calls",
        [
            lines(
                "Calls a second",
                "That ended, by method.",
                Query(f"{rate('grpc_method')} > 0", "{{grpc_method}}"),
                unit="reqps",
                low=0,
            ),
            lines(
                "Calls a second that failed",
                "By status code. NotFound, InvalidArgument and the like are the caller's; "
                "Unavailable and Internal are the service's.",
                Query(
                    rate("grpc_method, grpc_code", ', grpc_code!="OK"'),
                    "{{grpc_method}} {{grpc_code}}",
                ),
                unit="reqps",
                low=0,
            ),
            lines(
                "Calls a second that a limit refused",
                "By the limit that they met; messages and headers over theirs are not counted.",
                Query(
                    f"sum by (limit) (rate(service_limit_refusals_total{{{_OF}}}"
                    "[$__rate_interval]))",
                    "{{limit}}",
                ),
                unit="reqps",
                low=0,
            ),
        ],
    )


def _latency() -> Row:
    def quantile(q: float, by: str) -> str:
        chosen = f'{_CALLS}, grpc_type="unary"'
        buckets = f"rate(grpc_server_handling_seconds_bucket{{{chosen}}}[$__rate_interval])"
        return f"histogram_quantile({q}, sum by ({by}) ({buckets}))"

    return Row(
        "Latency of unary calls",
        [
            lines(
                "All methods",
                "Within what time so many calls were answered, in the service itself.",
                *(Query(quantile(q, "le"), f"{q:.0%} within") for q in (0.5, 0.9, 0.99)),
                unit="s",
                low=0,
            ),
            lines(
                "By method, 99%",
                "Within what time 99 of 100 calls of a method were answered.",
                Query(quantile(0.99, "le, grpc_method"), "{{grpc_method}}"),
                unit="s",
                low=0,
            ),
        ],
    )


def _mean(name: str, by: str = "instance") -> str:
    """Return the mean of what a histogram or summary observed lately."""
    total, count = (
        f"sum by ({by}) (rate({name}_{part}{{{_OF}}}[$__rate_interval]))"
        for part in ("sum", "count")
    )
    return f"{total} / ({count} > 0)"


def _store() -> Row:
    commits = f"rate(agent_journal_commit_seconds_bucket{{{_OF}}}[$__rate_interval])"
    return Row(
        "Store",
        [
            lines(
                "Time of a commit",
                "From its first statement until it is durable.",
                *(
                    Query(f"histogram_quantile({q}, sum by (le) ({commits}))", f"{q:.0%} within")
                    for q in (0.5, 0.99)
                ),
                unit="s",
                low=0,
            ),
            lines(
                "Calls in a commit",
                "Mean. More callers share one, so it rises with the load.",
                Query(_mean("agent_journal_batch_size"), "{{instance}}"),
                low=0,
            ),
            lines(
                "Free space",
                "On the disk of each service's store.",
                Query(f"instance:disk_free:ratio{{{_OF}}}", "{{instance}}"),
                unit="percentunit",
                low=0,
                high=1,
            ),
        ],
    )


def _learner() -> Row:
    return Row(
        "Learner",
        [
            lines(
                "Time of an update",
                "Mean, the reading of transitions included.",
                Query(
                    f"max by (controller) (agent_policy_update_seconds_sum{{{_OF}}})"
                    f" / max by (controller) (agent_policy_update_seconds_count{{{_OF}}} > 0)",
                    "{{controller}}",
                ),
                unit="s",
                low=0,
            ),
            lines(
                "Updates an hour",
                "New policy versions over the last hour.",
                Query("controller:agent_policy_updates:increase1h", "{{controller}}"),
                low=0,
            ),
            lines(
                "Staleness",
                "Mean over the last hour: policy versions between deciding and learning.",
                Query("controller:agent_policy_staleness:mean1h", "{{controller}}"),
                low=0,
            ),
        ],
    )


def _processes() -> Row:
    return Row(
        "Server processes, without the learner and the runs",
        [
            lines(
                "CPU",
                "Cores in use.",
                Query(
                    f"rate(process_cpu_seconds_total{{{_OF}}}[$__rate_interval])", "{{instance}}"
                ),
                low=0,
            ),
            lines(
                "Memory",
                "Resident.",
                Query(f"process_resident_memory_bytes{{{_OF}}}", "{{instance}}"),
                unit="bytes",
                low=0,
            ),
            lines(
                "Open files",
                "Connections included.",
                Query(f"process_open_fds{{{_OF}}}", "{{instance}}"),
                low=0,
            ),
        ],
    )


def _scrapes() -> Row:
    return Row(
        "Scrapes",
        [
            lines(
                "Time of a scrape",
                "How long the page takes; it grows with the log that is counted.",
                Query(f"scrape_duration_seconds{{{_OF}}}", "{{instance}}"),
                unit="s",
                low=0,
            ),
            lines(
                "Series of a page",
                "It should be level: series of runs go with them.",
                Query(f"scrape_samples_scraped{{{_OF}}}", "{{instance}}"),
                low=0,
            ),
            lines(
                "Runs without series of their own",
                "Counted since more than 1,000 runs were active at once.",
                Query(f"agent_run_series_dropped_total{{{_OF}}}", "{{instance}}"),
                low=0,
            ),
        ],
    )
