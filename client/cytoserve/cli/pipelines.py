"""``cytoserve pipelines``: what the server offers."""

from __future__ import annotations

import textwrap

import click

from cytoserve import contract
from cytoserve.cli.exit_codes import EPILOG, ExitCode
from cytoserve.cli.options import timeout_option, url_option
from cytoserve.client import Client
from cytoserve.codec.cards import Card

_WIDTH = 80
_NAME_WIDTH = 2 + max(map(len, contract.PIPELINES))


@click.command(epilog=EPILOG)
@url_option
@timeout_option
@click.option("--models", is_flag=True, help="List the version and hash of every model, too.")
def pipelines(url: str, timeout: float, models: bool) -> None:
    """List all pipelines: served or not, study, what they do, and their classes."""
    with Client(url, timeout=timeout) as client:
        served = client.pipelines()
        for name, pipeline in contract.PIPELINES.items():
            card = client.card(name) if name in served else None
            click.echo("\n".join(_lines(pipeline, card, models)))
    if not served:
        click.echo("No pipeline is served. Export one: `python -m export yolo`.", err=True)
        raise SystemExit(ExitCode.NOTHING_TO_DO)


def _lines(pipeline: contract.Pipeline, card: Card | None, models: bool) -> list[str]:
    state = "not served" if card is None else "served"
    lines = [f"{pipeline.name:<{_NAME_WIDTH}}{state:<12}{pipeline.study}"]
    details = [pipeline.summary]
    if card is not None:
        details.append(f"classes: {', '.join(card.class_names)}")
        if models:
            details += [
                f"{model} {facts.get('version', '?')}, sha256 {str(facts.get('sha256', '?'))[:12]}"
                for model, facts in card.models.items()
            ]
    for detail in details:
        lines += textwrap.wrap(detail, _WIDTH, initial_indent="  ", subsequent_indent="    ")
    return lines
