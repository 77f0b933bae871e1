"""The score thresholds that pipelines are measured with: given ones, or those of their cards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from cytoserve import Client
from cytoserve.contract import SCORE_THRESHOLD

score_threshold_option = click.option(
    "--score-threshold",
    type=click.FloatRange(0, 1),
    help="Of all pipelines. Default: the one that each model's training chose.",
)


def score_thresholds(
    client: Client, pipelines: Iterable[str], given: float | None
) -> dict[str, float]:
    """Pipeline -> ``given``, or what the client takes where no threshold is given."""
    return {name: _of_card(client, name) if given is None else given for name in pipelines}


def _of_card(client: Client, pipeline: str) -> float:
    learned = client.card(pipeline).threshold
    return SCORE_THRESHOLD if learned is None else learned


def score_threshold_text(recorded: float | Mapping[str, Any]) -> str:
    """The thresholds of a result as text; results of earlier versions record one for all."""
    if not isinstance(recorded, Mapping):
        return f"{recorded:g}"
    values = {f"{value:g}" for value in recorded.values()}
    if len(values) == 1:
        return values.pop()
    return ", ".join(f"{value:g} (`{name}`)" for name, value in recorded.items())
