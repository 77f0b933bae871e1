"""``cytoserve pipelines``: what the server offers."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from cytoserve import contract
from cytoserve.cli.exit_codes import EPILOG, ExitCode
from cytoserve.cli.options import timeout_option, url_option
from cytoserve.client import Client


@click.command(epilog=EPILOG)
@url_option
@timeout_option
def pipelines(url: str, timeout: float) -> None:
    """List all pipelines: ready or not, their classes, study, and model versions."""
    table = Table("pipeline", "ready", "classes", "study", "does", "models")
    with Client(url, timeout=timeout) as client:
        served = client.pipelines()
        for name, pipeline in contract.PIPELINES.items():
            classes = models = ""
            if name in served:
                card = client.card(name)
                classes = ", ".join(card.class_names)
                models = ", ".join(
                    f"{model} {facts.get('version', '?')}" for model, facts in card.models.items()
                )
            ready = "yes" if name in served else "no"
            table.add_row(name, ready, classes, pipeline.study, pipeline.summary, models)
    Console(markup=False, highlight=False).print(table)
    if not served:
        click.echo("No pipeline is served. Export one: `python -m export yolo`.", err=True)
        raise SystemExit(ExitCode.NOTHING_TO_DO)
