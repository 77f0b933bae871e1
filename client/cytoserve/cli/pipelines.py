"""``cytoserve pipelines``: list the pipelines that the server offers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import click

from cytoserve import contract
from cytoserve.cli.exit_codes import EPILOG, ExitCode
from cytoserve.cli.options import Server, server_options, timeout_option
from cytoserve.codec.cards import ModelCard

_WIDTH = 80
_NAME_WIDTH = 2 + max(map(len, contract.PIPELINES))


@click.command(epilog=EPILOG)
@server_options
@timeout_option
@click.option("--models", is_flag=True, help="List version, hash and variant of every model, too.")
def pipelines(server: Server, timeout: float, models: bool) -> None:
    """List all pipelines: served or not, study, purpose, and classes."""
    with server.client(timeout) as client:
        served = client.pipelines()
        for name, pipeline in contract.PIPELINES.items():
            card = client.card(name) if name in served else None
            answering = client.models(name) if card is not None and models else {}
            click.echo("\n".join(_lines(pipeline, card, answering)))
    if not served:
        click.echo("No pipeline is served. Export one: `python -m export yolo`.", err=True)
        raise SystemExit(ExitCode.NOTHING_TO_DO)


def _lines(
    pipeline: contract.Pipeline, card: ModelCard | None, models: Mapping[str, str]
) -> list[str]:
    state = "not served" if card is None else "served"
    lines = [f"{pipeline.name:<{_NAME_WIDTH}}{state:<12}{pipeline.study}"]
    details = [pipeline.summary]
    if card is not None:
        details.append(f"classes: {', '.join(card.class_names)}")
        details += _operating_point(card)
        for model, answering in models.items():
            sha256, *execution = answering.split(" ", 1)
            facts = [f"sha256 {sha256[:12] or '?'}", *execution]
            version = card.models[model].get("version", "?")
            details.append(f"{model} {version}, {', '.join(facts)}")
    for detail in details:
        lines += textwrap.wrap(detail, _WIDTH, initial_indent="  ", subsequent_indent="    ")
    return lines


def _operating_point(card: ModelCard) -> list[str]:
    """Return lines about the threshold and frame scale chosen in training."""
    details, scale = [], card.scale
    if card.threshold is not None:
        details.append(f"threshold: {card.threshold:g}, chosen in validation")
    if scale is not None:
        size = scale.pixel_size_um
        details.append(
            f"scale: cells of {scale.cell_diameter_px:g} px, the largest "
            f"{scale.largest_cell_px:g} px" + ("" if size is None else f"; {size:.4g} um per pixel")
        )
    return details
