"""Options that `python -m server` and the start of the container for GPUs share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from server.access import AccessSettings

RESPONSE_CACHE_MB = 256
"""Default of ``--response-cache-mb``: 60 embeddings of SAM, 4 MiB each, plus Triton's overhead."""

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, dir_okay=False)
_ACCESS = (
    click.option("--tls-cert", type=_FILE, help="PEM file of the server's certificate."),
    click.option("--tls-key", type=_FILE, help="PEM file of its private key."),
    click.option(
        "--tls-client-ca",
        type=_FILE,
        help="PEM file of an authority. Callers must have a certificate from it.",
    ),
    click.option(
        "--api-key-file",
        type=_FILE,
        help="File with a key. Callers must send it: `cytoserve --api-key`, CYTOSERVE_API_KEY.",
    ),
    click.option(
        "--insecure",
        is_flag=True,
        help="Let other machines reach a server without TLS or without a key.",
    ),
)


def access_options(command: Command) -> Command:
    """Add the options of certificates and keys; the command gets them as ``access``."""

    @functools.wraps(command)
    def with_access(
        tls_cert: Path | None,
        tls_key: Path | None,
        tls_client_ca: Path | None,
        api_key_file: Path | None,
        insecure: bool,
        **options: Any,
    ) -> Any:
        access = AccessSettings(tls_cert, tls_key, tls_client_ca, api_key_file, insecure)
        return command(access=access, **options)

    for option in reversed(_ACCESS):
        option(with_access)
    return cast(Command, with_access)


listen_option = click.option(
    "--listen",
    default="127.0.0.1",
    show_default=True,
    help="Address to serve at. Other machines reach an address that is not loopback: it needs TLS "
    "and a proof of who asks.",
)
exit_timeout_option = click.option(
    "--exit-timeout",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="Seconds that running requests get to end when the server is told to stop.",
)
response_cache_option = click.option(
    "--response-cache-mb",
    type=click.IntRange(0),
    default=RESPONSE_CACHE_MB,
    show_default=True,
    help="MiB of memory for answers of steps with a response cache, such as the embedding of a "
    "frame that is prompted again; 0 keeps none.",
)
