"""Which style of gRPC server answers best: a bare echo in each, by calls and over streams."""

from pathlib import Path

from tests.benchmarks import load
from tests.benchmarks.bench_agent import CALLERS, echo_server
from tests.benchmarks.echo import STYLES
from tests.benchmarks.results import Figures, show_rounds

ROUNDS = 5
SECONDS = 2.0
ALONE = 500


async def measure(_folder: Path) -> Figures:
    figures = {}
    for style in STYLES:
        with echo_server(style) as address:
            (alone,) = load.echoes(address, 1)
            figures[f"{style}_p50_s"] = await load.median_seconds(alone, times=ALONE)
            calls, streams = load.echoes(address, CALLERS), load.stream_echoes(address, CALLERS)
            figures[f"{style}_per_s"] = await load.calls_a_second(calls, seconds=SECONDS)
            figures[f"{style}_stream_per_s"] = await load.calls_a_second(streams, seconds=SECONDS)
    return figures


if __name__ == "__main__":
    show_rounds("styles", measure, lambda _figures: [], rounds=ROUNDS)
