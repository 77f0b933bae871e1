"""Start NVIDIA's ``tritonserver`` in its container, with the access rules of ``python -m server``.

Plans of TensorRT fit one version of it and one kind of GPU. So they are checked before the server
starts: Triton itself would only say that it cannot read them. Then this process becomes the server,
so that the container ends with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from server.access import AccessSettings, open_access, refuse_open_server
from server.errors import ServerError
from server.options import (
    access_options,
    exit_timeout_option,
    listen_option,
    response_cache_option,
)
from server.variants import DEFAULT

PLANS = "tensorrt"


@click.command()
@click.option(
    "--model-repository",
    "models",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default="/models",
    show_default=True,
    help="Folder that `python -m export bundle` made.",
)
@click.option(
    "--variant",
    default=PLANS,
    show_default=True,
    envvar="CYTOSERVE_VARIANT",
    help=f"Configurations to serve: {PLANS}, cuda, or {DEFAULT} for processors alone.",
)
@click.option("--grpc-port", type=click.IntRange(1, 65535), default=8001, show_default=True)
@click.option("--metrics-port", type=click.IntRange(1, 65535), default=8002, show_default=True)
@listen_option
@access_options
@exit_timeout_option
@response_cache_option
@click.argument("tritonserver_flags", nargs=-1, type=click.UNPROCESSED)
def main(
    models: Path,
    variant: str,
    grpc_port: int,
    metrics_port: int,
    listen: str,
    access: AccessSettings,
    exit_timeout: int,
    response_cache_mb: int,
    tritonserver_flags: tuple[str, ...],
) -> None:
    """Serve a bundle on NVIDIA's Triton. Flags after -- are passed on to tritonserver."""
    try:
        refuse_open_server(access, listen)
        opened = open_access(access, Path(tempfile.mkdtemp(prefix="cytoserve-")))
    except ServerError as error:
        raise click.ClickException(str(error)) from error
    refuse_misfits(models, variant)
    command = [
        "tritonserver",
        f"--model-repository={models}",
        *([f"--model-config-name={variant}"] * (variant != DEFAULT)),
        f"--exit-timeout-secs={exit_timeout}",
        "--allow-http=false",
        f"--grpc-address={listen}",
        f"--grpc-port={grpc_port}",
        f"--metrics-address={listen}",
        f"--metrics-port={metrics_port}",
        *([f"--cache-config=local,size={response_cache_mb * 2**20}"] * bool(response_cache_mb)),
        *opened.flags,
        *tritonserver_flags,
    ]
    os.execvp(command[0], command)  # noqa: S606


def refuse_misfits(models: Path, variant: str) -> None:
    """End with the reason and the remedy where this machine cannot serve the plans."""
    if variant != PLANS:
        return
    check = [sys.executable, "-m", "export", PLANS, "--fits", "--model-repository", str(models)]
    code = subprocess.run(check, check=False).returncode
    if code:
        raise click.exceptions.Exit(code)


if __name__ == "__main__":
    main(prog_name="serve")
