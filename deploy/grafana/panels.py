"""How a panel looks, and how panels, variables and annotations make a dashboard.

Knows no metric: what is asked of Prometheus comes from the modules of the dashboards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import bargauge, common, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

TAG = "reinforced-regularization"
WIDTH, HEIGHT = 24, 8
"""Columns of Grafana's grid, and what a panel takes of its rows."""
_SOURCE = looks.DataSourceRef(type_val="prometheus", uid="${datasource}")

Panel = Builder[model.Panel]


@dataclass(frozen=True, slots=True)
class Query:
    """A Prometheus query, and the legend of its series."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Row:
    """Panels beside one another, under a title."""

    title: str
    panels: Sequence[Panel]


def _target(query: Query, place: int) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .ref_id(chr(ord("A") + place))
        .expr(query.expr)
        .legend_format(query.legend)
        .range()
    )


def lines(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    low: float | None = None,
    high: float | None = None,
    limit: float | None = None,
    steps: bool = False,
) -> Panel:
    """Return a panel of curves over time.

    Args:
        title: what is seen.
        description: what it means, and what is good.
        queries: each gives curves.
        unit: Grafana's name of the values' unit.
        low: where the axis begins; None: where the values do.
        high: where the axis ends.
        limit: a value from which on it is bad, drawn as a line.
        steps: whether values hold until the next one.
    """
    panel = _curves(queries).title(title).description(description).unit(unit)
    if low is not None:
        panel.axis_soft_min(low)
    if high is not None:
        panel.axis_soft_max(high)
    if steps:
        panel.line_interpolation(looks.LineInterpolation.STEP_AFTER)
    if limit is not None:
        panel.thresholds(_thresholds(limit, below="transparent"))
        dashed = common.GraphThresholdsStyleConfig().mode(looks.GraphThresholdsStyleMode.DASHED)
        panel.thresholds_style(dashed)
    return panel


def _curves(queries: Sequence[Query]) -> timeseries.Panel:
    return (
        timeseries.Panel()
        .datasource(_SOURCE)
        .line_width(1)
        .fill_opacity(5)
        .show_points(looks.VisibilityMode.AUTO)
        .legend(
            common.VizLegendOptions()
            .display_mode(looks.LegendDisplayMode.LIST)
            .placement(looks.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI))
        .targets([_target(query, place) for place, query in enumerate(queries)])
    )


def _thresholds(limit: float, *, below: str, above: str = "red") -> build.ThresholdsConfig:
    steps = [model.Threshold(color=below), model.Threshold(value=limit, color=above)]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def distribution(title: str, description: str, expr: str, *, unit: str = "short") -> Panel:
    """Return a heat map of a histogram's buckets over time; `expr` gives increases by `le`."""
    target = _target(Query(expr, "{{le}}"), 0).format(PromQueryFormat.HEATMAP)
    colours = (
        heatmap.HeatmapColorOptions()
        .mode(HeatmapColorMode.SCHEME)
        .scheme("Blues")
        .scale(HeatmapColorScale.LINEAR)
        .steps(32)
        .reverse(True)
    )
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .calculate(False)
        .color(colours)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .targets([target])
    )


def number(
    title: str, description: str, query: Query, *, unit: str = "short", bad_from: float
) -> Panel:
    """Return the newest value of each series, red from `bad_from` on."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .unit(unit)
        .thresholds(_thresholds(bad_from, below="green"))
        .targets([_target(query, 0)])
    )


def is_true(title: str, description: str, *queries: Query) -> Panel:
    """Return whether each series is 1 now: green; and red where it is 0."""
    words = {
        "0": model.ValueMappingResult(text="no", index=0),
        "1": model.ValueMappingResult(text="yes", index=1),
    }
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .mappings([model.ValueMap(options=words)])
        .thresholds(_thresholds(1, below="red", above="green"))
        .text_mode(looks.BigValueTextMode.VALUE_AND_NAME)
        .targets([_target(query, place) for place, query in enumerate(queries)])
    )


def shares(title: str, description: str, query: Query) -> Panel:
    """Return a bar for each series, from 0 to 1, as they stand now."""
    return (
        bargauge.Panel()
        .title(title)
        .description(description)
        .datasource(_SOURCE)
        .unit("percentunit")
        .min(0)
        .max(1)
        .orientation(looks.VizOrientation.HORIZONTAL)
        .display_mode(looks.BarGaugeDisplayMode.BASIC)
        .targets([_target(query, 0).instant()])
    )


def choice(name: str, label: str, query: str) -> Builder[model.VariableModel]:
    """Return a variable of one value, offered by a query such as `label_values(up, job)`."""
    return _choices(name, label, query)


def choices(name: str, label: str, query: str) -> Builder[model.VariableModel]:
    """Return a variable of any number of values, all of them at first."""
    every = model.VariableOption(text="All", value="$__all", selected=True)
    return _choices(name, label, query).multi(True).include_all(True).all_value(".*").current(every)


def _choices(name: str, label: str, query: str) -> build.QueryVariable:
    return (
        build.QueryVariable(name)
        .label(label)
        .datasource(_SOURCE)
        .query({"query": query, "refId": name})
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.NATURAL_ASC)
    )


def marks(name: str, expr: str, title: str) -> Builder[model.AnnotationQuery]:
    """Return marks on all panels of a dashboard at the moments when `expr` is above 0."""
    return (
        build.AnnotationQuery()
        .name(name)
        .datasource(_SOURCE)
        .enable(True)
        .icon_color("purple")
        .expr(expr)
        .step("15s")
        .title_format(title)
        .text_format("")
        .use_value_for_time(False)
    )


def dashboard(
    title: str,
    description: str,
    *,
    variables: Sequence[Builder[model.VariableModel]],
    rows: Sequence[Row],
    annotations: Sequence[Builder[model.AnnotationQuery]] = (),
) -> model.Dashboard:
    """Return a dashboard; the panels of a row share its width."""
    source = build.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
    made = (
        build.Dashboard(title)
        .uid(f"{TAG}-{title.lower()}")
        .description(description)
        .tags([TAG])
        .time("now-1h", "now")
        .refresh("10s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .variables([source, *variables])
        .annotations(list(annotations))
        .link(_to_the_others())
    )
    top, number_of_panel = 0, 0
    for row in rows:
        head = build.Row(row.title).grid_pos(model.GridPos(x=0, y=top, w=WIDTH, h=1))
        made.with_row(head.id(number_of_panel := number_of_panel + 1))
        width = WIDTH // len(row.panels)
        for place, panel in enumerate(row.panels):
            built = panel.build()
            built.id_val = (number_of_panel := number_of_panel + 1)
            built.grid_pos = model.GridPos(x=place * width, y=top + 1, w=width, h=HEIGHT)
            made.with_panel(_Built(built))
        top += 1 + HEIGHT
    return in_sight(made.build())


def in_sight(made: model.Dashboard) -> model.Dashboard:
    """Return a dashboard that shows its links and marks, which the SDK puts into a menu."""
    assert made.links is not None
    assert made.annotations is not None
    for placed in (*made.links, *(made.annotations.list_val or ())):
        placed.placement = None
    return made


def _to_the_others() -> build.DashboardLink:
    return (
        build.DashboardLink("Dashboards")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .keep_time(True)
        .include_vars(False)
    )


class _Built(Builder[model.Panel]):
    """A panel that has its place, as the SDK takes panels."""

    def __init__(self, panel: model.Panel) -> None:
        self._panel = panel

    def build(self) -> model.Panel:
        return self._panel
