"""Options that several commands share, and options that only some pipelines accept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource

from cytoserve import contract
from cytoserve.access import TLS, Access
from cytoserve.client import Client
from cytoserve.outputs import CELLS_OUTPUTS, FOREGROUND_OUTPUTS, OVERLAY, Output, outputs
from cytoserve.outputs.extras import require
from cytoserve.settings import DEFAULT_TIMEOUT_S, DEFAULT_URL, FIT, check_scale, names_with

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Server:
    """The server that a command asks, and what the command shows to it."""

    url: str
    access: Access

    def client(self, timeout: float, version: int | None = None) -> Client:
        """Return a client, with ``timeout`` seconds per call, of one version of the pipelines."""
        access = self.access
        return Client(
            self.url,
            timeout=timeout,
            ca=access.ca,
            cert=access.cert,
            key=access.key,
            api_key=access.api_key,
            version=version,
        )


_FILE = click.Path(path_type=Path, dir_okay=False)
_SERVER_OPTIONS = (
    click.option(
        "--url",
        envvar="CYTOSERVE_URL",
        default=DEFAULT_URL,
        show_default=True,
        show_envvar=True,
        metavar="HOST:PORT",
        help=f"gRPC endpoint of the server; {TLS}HOST:PORT if it has a certificate.",
    ),
    click.option(
        "--ca",
        envvar="CYTOSERVE_CA",
        show_envvar=True,
        type=_FILE,
        help="PEM file of the authority that vouches for the server's certificate.",
    ),
    click.option(
        "--cert",
        envvar="CYTOSERVE_CERT",
        show_envvar=True,
        type=_FILE,
        help="PEM file of your own certificate, for a server that asks for one.",
    ),
    click.option(
        "--key",
        envvar="CYTOSERVE_KEY",
        show_envvar=True,
        type=_FILE,
        help="PEM file of its private key.",
    ),
    click.option(
        "--api-key",
        envvar="CYTOSERVE_API_KEY",
        show_envvar=True,
        help="Key that the server was started with. Others may see a command line: the variable is "
        "the better place.",
    ),
)


def server_options(command: Command) -> Command:
    """Add the options that say how the server is reached; the command gets them as ``server``."""

    @functools.wraps(command)
    def with_server(
        url: str,
        ca: Path | None,
        cert: Path | None,
        key: Path | None,
        api_key: str | None,
        **options: Any,
    ) -> Any:
        return command(server=Server(url, Access(ca, cert, key, api_key)), **options)

    for option in reversed(_SERVER_OPTIONS):
        option(with_server)
    return cast(Command, with_server)


timeout_option: Callable[..., Any] = click.option(
    "--timeout",
    type=float,
    default=DEFAULT_TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="Deadline of every image.",
)

version_option: Callable[..., Any] = click.option(
    "--model-version",
    "version",
    type=click.IntRange(1),
    help="Version of the pipeline to ask, for a server that offers several.  [default: the newest]",
)

numbers_option: Callable[..., Any] = click.option(
    "--numbers", is_flag=True, help="Draw the number of every cell, or component, on the overlay."
)

out_option: Callable[..., Any] = click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the results and of run.json.",
)

DEFAULT_SAVE: Mapping[bool, tuple[str, ...]] = {False: ("labels", "table"), True: ("mask", "table")}
"""Kinds that are saved by default; the key tells whether the pipeline is semantic."""

OPTION_INPUTS: Mapping[str, contract.Tensor] = {
    "score_threshold": contract.SCORE_THRESHOLD_INPUT,
    "overlap_threshold": contract.OVERLAP_THRESHOLD_INPUT,
    "max_cells": contract.MAX_CELLS_INPUT,
    "scale": contract.SCALE_INPUT,
    "cell_diameter_px": contract.SCALE_INPUT,
    "probability_threshold": contract.PROBABILITY_THRESHOLD_INPUT,
    "white_level": contract.WHITE_LEVEL_INPUT,
}
"""Option -> pipeline input; an option is refused for pipelines without its input."""


class ScaleType(click.ParamType):  # type: ignore[type-arg]  # generic in new versions only
    """A number, or the word `fit`."""

    name = "factor or fit"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | str:
        """Read one value of ``--scale``; :class:`cytoserve.settings.Settings` checks its range."""
        if value == FIT:
            return FIT
        try:
            return float(value)
        except ValueError:
            self.fail(f"A number above 0, or {FIT}; given: {value!r}.", param, ctx)


def parse_save(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    """Read ``labels,table`` as a tuple."""
    if value is None:
        return None
    return tuple(dict.fromkeys(kind.strip() for kind in value.split(",")))


def check_save(save: tuple[str, ...] | None, pipeline: contract.Pipeline) -> tuple[str, ...]:
    """Return the kinds to save; refuse kinds that the pipeline does not offer, or whose
    package is not installed."""
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
    for module in {known[kind].module for kind in save} - {""}:
        try:
            require(module)
        except ImportError as error:
            raise click.BadParameter(str(error), param_hint="--save") from error
    return save


def check_options(context: click.Context, pipeline: contract.Pipeline) -> None:
    """Refuse a given option that the pipeline does not accept."""
    options = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name, tensor in OPTION_INPUTS.items():
        given = context.get_parameter_source(name) is not ParameterSource.DEFAULT
        if given and tensor not in pipeline.inputs:
            option = options[name]
            raise click.UsageError(
                f"{option} is an option of {names_with(tensor)}; given: {option} for "
                f"{pipeline.name}. Leave it out, or choose another --pipeline."
            )


def check_overlay_options(
    pipeline: contract.Pipeline,
    save: tuple[str, ...],
    numbers: bool,
    pixel_size_um: float | None,
) -> None:
    """Refuse an invalid pixel size, and numbers if no overlay is saved."""
    if pixel_size_um is not None:
        check_scale("pixel_size_um", pixel_size_um)
    if numbers and OVERLAY not in save:
        raise click.UsageError(
            f"--numbers is drawn on the overlay; given: --numbers for {pipeline.name} with "
            f"--save {','.join(save)}. Add {OVERLAY} to --save."
        )


def takers_help(name: str) -> str:
    """Return a sentence that names the pipelines that accept an option."""
    return f"Of {names_with(OPTION_INPUTS[name])}."


def kinds_help() -> str:
    """Return sentences that list the kinds to save for each group of pipelines."""
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
