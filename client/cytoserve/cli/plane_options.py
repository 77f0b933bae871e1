"""The options that choose planes of a file: channels, z, time points and positions."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from cytoserve.planes import EACH, MAXIMUM

_NUMBERS = re.compile(r"\d+(-\d+)?")


def _parts(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    """Read ``DAPI,2`` or ``0,10-19``."""
    if value is None:
        return None
    parts = tuple(part.strip() for part in value.split(","))
    if not all(parts):
        raise click.BadParameter(f"Names or numbers with commas between them; given: {value!r}.")
    return parts


def _numbers(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    parts = _parts(context, parameter, value)
    words = (EACH, MAXIMUM) if parameter.name == "z" else (EACH,)
    for part in parts or ():
        if part in words and parts == (part,):
            continue
        if not _NUMBERS.fullmatch(part):
            raise click.BadParameter(
                f"Numbers from 0, ranges such as 10-19, or {' or '.join(words)}; given: {value!r}."
            )
    return parts


plane_options: tuple[Callable[..., Any], ...] = (
    click.option(
        "--channel",
        default=None,
        callback=_parts,
        metavar="NAME|N[,...]",
        help="Channels of a file with several, by name or by number from 0. Each has results of "
        "its own; `each` takes all.  [default: the first]",
    ),
    click.option(
        "--z",
        default=None,
        callback=_numbers,
        metavar="N|max|each",
        help="Planes of a z stack: numbers from 0, ranges such as 3-7, `each`, or `max` for the "
        "maximum over all z.  [default: each]",
    ),
    click.option(
        "--time",
        default=None,
        callback=_numbers,
        metavar="N|each[,...]",
        help="Time points: numbers from 0, ranges such as 10-19, or `each`.  [default: each]",
    ),
    click.option(
        "--position",
        default=None,
        callback=_parts,
        metavar="NAME|N[,...]",
        help="Positions of a file with several, such as the images of an OME-TIFF, by name or by "
        "number from 0, or `each`.  [default: each]",
    ),
)
