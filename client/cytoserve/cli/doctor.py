"""``cytoserve doctor``: check the client, the server and every pipeline."""

from __future__ import annotations

import platform
import time

import click

import cytoserve
from cytoserve import contract
from cytoserve.cells import Cells
from cytoserve.cli.exit_codes import EPILOG, ExitCode
from cytoserve.cli.options import timeout_option, url_option
from cytoserve.client import Client
from cytoserve.errors import CytoserveError
from cytoserve.foreground import Foreground
from cytoserve.self_test import run_self_test


@click.command(epilog=EPILOG)
@url_option
@timeout_option
def doctor(url: str, timeout: float) -> None:
    """Check the server, the versions, and every pipeline with a synthetic test image.

    Each check prints one line: ok, FAIL with the remedy, or -- for a pipeline that is not served.
    """
    _line("ok", f"client: cytoserve {cytoserve.__version__}, Python {platform.python_version()}")
    with Client(url, timeout=timeout) as client:
        try:
            server = client.server_info()
            served = client.pipelines()
        except CytoserveError as error:
            _line("FAIL", f"server: {error}")
            raise SystemExit(ExitCode.SERVER_FAILED) from error
        _line("ok", f"server: {server.name} {server.version} at {url}")
        passed = [_check(client, name, timeout) for name in served]
    for name in contract.PIPELINES:
        if name not in served:
            _line("--", f"{name}: not served. To serve it: `python -m export {name}`")
    if not served:
        _line("FAIL", "pipelines: none is served. Export one and start the server again.")
        raise SystemExit(ExitCode.NOTHING_TO_DO)
    if not all(passed):
        raise SystemExit(ExitCode.SOME_FAILED)


def _check(client: Client, pipeline: str, timeout: float) -> bool:
    start = time.perf_counter()
    try:
        found = run_self_test(client, pipeline, timeout)
    except CytoserveError as error:
        _line("FAIL", f"{pipeline}: {error}")
        return False
    milliseconds = 1000 * (time.perf_counter() - start)
    _line("ok", f"{pipeline}: a test image answered in {milliseconds:.0f} ms, {_words(found)}")
    return True


def _words(found: Cells | Foreground) -> str:
    if isinstance(found, Cells):
        return f"{len(found)} cells"
    nuclei = "" if found.centres is None else f", {len(found.centres)} nuclei"
    return f"{found.confluency:.1f} % {found.class_name}{nuclei}"


def _line(state: str, text: str) -> None:
    click.echo(f"{state:<5}{text}")
