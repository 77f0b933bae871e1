"""Options of ``cytoserve segment`` that only some pipelines take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource

from cytoserve import contract
from cytoserve.outputs import CELLS_OUTPUTS, FOREGROUND_OUTPUTS, Output, outputs
from cytoserve.settings import names_with

DEFAULT_SAVE: Mapping[bool, tuple[str, ...]] = {False: ("labels", "table"), True: ("mask", "table")}
"""What is saved by default, by whether the pipeline is semantic."""

OPTION_INPUTS: Mapping[str, contract.Tensor] = {
    "score_threshold": contract.SCORE_THRESHOLD_INPUT,
    "overlap_threshold": contract.OVERLAP_THRESHOLD_INPUT,
    "max_cells": contract.MAX_CELLS_INPUT,
    "probability_threshold": contract.PROBABILITY_THRESHOLD_INPUT,
    "white_level": contract.WHITE_LEVEL_INPUT,
}
"""Options that are inputs of a pipeline: those that lack the input refuse the option."""


def parse_save(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    """Read ``labels,table`` as a tuple."""
    if value is None:
        return None
    return tuple(dict.fromkeys(kind.strip() for kind in value.split(",")))


def check_save(save: tuple[str, ...] | None, pipeline: contract.Pipeline) -> tuple[str, ...]:
    """Return the kinds to save; refuse what the pipeline has no output for."""
    if save is None:
        return DEFAULT_SAVE[pipeline.is_semantic]
    known = outputs(pipeline)
    unknown = [kind for kind in save if kind not in known]
    if unknown:
        raise click.BadParameter(
            f"For {pipeline.name}, a list of {', '.join(known)}, with commas; given: "
            f"{', '.join(unknown)!r}.",
            param_hint="--save",
        )
    return save


def check_options(context: click.Context, pipeline: contract.Pipeline) -> None:
    """Refuse an option that was given and that the pipeline does not take."""
    for name, tensor in OPTION_INPUTS.items():
        given = context.get_parameter_source(name) is not ParameterSource.DEFAULT
        if given and tensor not in pipeline.inputs:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(
                f"{option} is an option of {names_with(tensor)}; given: {option} for "
                f"{pipeline.name}. Leave it out, or choose another --pipeline."
            )


def takers_help(name: str) -> str:
    """Return which pipelines take an option, in words."""
    return f"Of {names_with(OPTION_INPUTS[name])}."


def kinds_help() -> str:
    """Return what can be saved of which pipelines, in words."""
    kinds: tuple[tuple[contract.Tensor, Mapping[str, Output[Any]], bool], ...] = (
        (contract.CELLS_FOUND, CELLS_OUTPUTS, False),
        (contract.PROBABILITY, FOREGROUND_OUTPUTS, True),
    )
    sentences = []
    for tensor, known, semantic in kinds:
        named = "; ".join(f"{kind} ({output.summary})" for kind, output in known.items())
        default = ",".join(DEFAULT_SAVE[semantic])
        sentences.append(f"Of {names_with(tensor)}: {named}; by default {default}.")
    return " ".join(sentences)
