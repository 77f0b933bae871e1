"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cytoserve.settings import DEFAULT_TIMEOUT_S, DEFAULT_URL

url_option: Callable[..., Any] = click.option(
    "--url",
    envvar="CYTOSERVE_URL",
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    metavar="HOST:PORT",
    help="gRPC endpoint of the server.",
)

timeout_option: Callable[..., Any] = click.option(
    "--timeout",
    type=float,
    default=DEFAULT_TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="Deadline of every image.",
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
