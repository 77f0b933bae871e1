"""``cytoserve status``: what the server has done since it started."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cytoserve import contract
from cytoserve.cli.exit_codes import EPILOG, ExitCode
from cytoserve.cli.options import Server, server_options, timeout_option

if TYPE_CHECKING:
    from cytoserve.statistics import ModelStatistics

_COLUMNS = ("pipeline", "version", "requests", "errors", "mean ms", "queue ms", "compute ms", "as")
_WIDTH = 120


@click.command(epilog=EPILOG)
@server_options
@timeout_option
def status(server: Server, timeout: float) -> None:
    """Print what the server has answered since it started, per pipeline.

    Times are means per request in milliseconds: from arrival to answer, waiting in the queues of
    the steps, and computing in them. Steps that several pipelines share count for each. The
    server's own health checks are requests too, and the slow first runs of a step, before the
    server is ready, are computing: after few requests, its mean is high. The last column names
    graphs other than the default ones.
    """
    from cytoserve.statistics import read_statistics  # slow to import

    with server.client(timeout) as client:
        counted = read_statistics(server.url, server.access, timeout)
        served = [name for name in client.pipelines() if name in contract.PIPELINES]
        rows = [
            _row(contract.PIPELINES[name], counted, client.models(name).values()) for name in served
        ]
    if not rows:
        click.echo("No pipeline is served. Export one: `python -m export yolo`.", err=True)
        raise SystemExit(ExitCode.NOTHING_TO_DO)
    table = Table(box=SIMPLE_HEAD)
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in ("pipeline", "as") else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=_WIDTH).print(table)


def _row(
    pipeline: contract.Pipeline, counted: Iterable[ModelStatistics], models: Iterable[str]
) -> tuple[str, ...]:
    """Return the cells of one pipeline's row; ``models`` is what the client says of its models."""
    newest = {each.model: each for each in sorted(counted, key=lambda each: each.version)}
    whole = newest[pipeline.name]
    steps = [newest[name] for name in _steps(pipeline) if name in newest]
    others = sorted({text.split(" ", 1)[1] for text in models if " " in text})
    return (
        pipeline.name,
        f"{whole.version}",
        f"{whole.requests:,}",
        f"{whole.errors:,}",
        f"{whole.mean_ms:.1f}",
        f"{sum(step.queue_ms for step in steps):.1f}",
        f"{sum(step.compute_ms for step in steps):.1f}",
        "; ".join(others) or "default",
    )


def _steps(pipeline: contract.Pipeline) -> tuple[str, ...]:
    merged = () if pipeline.merged_step is None else (pipeline.merged_step,)
    return (*pipeline.steps, *merged)
