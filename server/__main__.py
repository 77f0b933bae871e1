"""``python -m server``: serve the exported pipelines with an embedded Triton."""

from __future__ import annotations

from pathlib import Path

import click

from cytoserve.contract import PIPELINES
from server.access import AccessSettings
from server.errors import ServerError
from server.launcher import LaunchSettings, serve
from server.log import Log
from server.options import (
    access_options,
    exit_timeout_option,
    listen_option,
    response_cache_option,
)
from server.variants import DEFAULT, VARIANTS

JSON = "json"


def pipeline_names(
    context: click.Context, parameter: click.Parameter, value: str
) -> tuple[str, ...]:
    """Split and check the value of ``--pipelines``."""
    names = tuple(filter(None, (name.strip() for name in value.split(","))))
    unknown = [name for name in names if name not in PIPELINES]
    if unknown or not names:
        raise click.BadParameter(
            f"{', '.join(unknown) or 'nothing'} is no pipeline; there are {', '.join(PIPELINES)}"
        )
    return tuple(dict.fromkeys(names))


@click.command()
@click.option(
    "--model-repository",
    type=click.Path(path_type=Path),
    default="model_repository",
    show_default=True,
    help="Folder with the models' configurations and exported versions.",
)
@click.option(
    "--pipelines",
    callback=pipeline_names,
    default=",".join(PIPELINES),
    show_default=True,
    help="Pipelines to serve, by name, separated by commas.",
)
@click.option(
    "--variant",
    type=click.Choice([DEFAULT, *VARIANTS]),
    help="Compute networks in another way, where this machine can: "
    + "; ".join(f"{variant.name}, {variant.summary}" for variant in VARIANTS.values())
    + ". `python -m benchmarks.variants` finds the fastest one for a lone client of this machine.  "
    "[default: a GPU if its graphs are exported, else the fastest variant that was measured]",
)
@click.option(
    "--versions",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of versions of every pipeline to serve. With 2, callers may ask for the version "
    "before the last export too (version=…, --model-version), and memory may double.",
)
@click.option(
    "--grpc-port",
    type=click.IntRange(0, 65535),
    default=8001,
    show_default=True,
    help="TCP port of the server; 0 takes any free one.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    help="TCP port for Prometheus metrics.  [default: no metrics]",
)
@listen_option
@access_options
@click.option(
    "--log-format",
    type=click.Choice(["text", JSON]),
    default="text",
    show_default=True,
    help="Form of what the server prints. With json, one object per line, and all of Triton's "
    "warnings and errors. The error that a client gets names its request, as does the log.",
)
@exit_timeout_option
@response_cache_option
@click.option(
    "--stop-at-eof",
    is_flag=True,
    help="Stop when standard input ends: for a program that starts the server and may die.",
)
@click.argument("tritonserver_flags", nargs=-1, type=click.UNPROCESSED)
def main(
    model_repository: Path,
    pipelines: tuple[str, ...],
    variant: str | None,
    versions: int,
    grpc_port: int,
    metrics_port: int | None,
    listen: str,
    access: AccessSettings,
    log_format: str,
    exit_timeout: int,
    response_cache_mb: int,
    stop_at_eof: bool,
    tritonserver_flags: tuple[str, ...],
) -> None:
    """Serve the exported pipelines of a model repository over gRPC, until Ctrl-C or SIGTERM.

    Flags after -- are passed on to tritonserver.
    """
    settings = LaunchSettings(
        model_repository=model_repository,
        pipelines=pipelines,
        variant=variant,
        versions=versions,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        listen=listen,
        access=access,
        exit_timeout=exit_timeout,
        response_cache_mb=response_cache_mb,
        stop_at_eof=stop_at_eof,
        extra_flags=tritonserver_flags,
    )
    log = Log(click.echo, lambda line: click.echo(line, err=True), log_format == JSON)
    try:
        serve(settings, log)
    except ServerError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main(prog_name="python -m server")
