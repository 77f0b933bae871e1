"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

import click

from cytoserve.settings import DEFAULT_TIMEOUT_S, DEFAULT_URL


class ExitCode(IntEnum):
    """Exit status of the commands; 1 is reserved for interruption (Ctrl-C) and our own bugs."""

    DONE = 0
    USAGE = 2
    SOME_FAILED = 3
    SERVER_FAILED = 4
    NOTHING_TO_DO = 5


MEANINGS = {
    ExitCode.DONE: "everything is done",
    ExitCode.USAGE: "wrong usage; nothing was sent",
    ExitCode.SOME_FAILED: "some images or checks failed, the others are done",
    ExitCode.SERVER_FAILED: "the server cannot be reached, or stopped answering",
    ExitCode.NOTHING_TO_DO: "no image was found, or the pipeline is not served",
}

EPILOG = "\b\nExit status:\n" + "\n".join(
    f"  {code.value}  {meaning}" for code, meaning in MEANINGS.items()
)
"""Table of exit statuses for ``--help``."""


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
