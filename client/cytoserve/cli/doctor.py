"""``cytoserve doctor``: check the client, the server and every pipeline.

A pipeline is checked by a self-test: a small frame that every pipeline must process, whatever it
was trained on.
"""

from __future__ import annotations

import platform
import time

import click
import cv2
import numpy as np
from numpy.typing import NDArray

import cytoserve
from cytoserve import contract
from cytoserve.cells import Cells
from cytoserve.cli.exit_codes import EPILOG, ExitCode
from cytoserve.cli.options import Server, server_options, timeout_option
from cytoserve.client import Client
from cytoserve.doubts import CAPPED
from cytoserve.errors import CytoserveError
from cytoserve.foreground import Foreground
from cytoserve.prompts import Prompts
from cytoserve.settings import find_pipeline

_NOT_LEARNED = (
    "The test image shows a dozen discs: a model that finds so many has learned little, or its "
    "threshold is too low. Train it longer, or give a --score-threshold."
)

_SELF_TEST_PROMPTS = Prompts(boxes=[(90, 60, 150, 110), None], points=[None, [(128, 96)]])


@click.command(epilog=EPILOG)
@server_options
@timeout_option
def doctor(server: Server, timeout: float) -> None:
    """Check the server, the versions, and every pipeline with a synthetic test image.

    Each check prints one line: ok, FAIL with the remedy, or -- for a pipeline that is not served. A
    pipeline that finds more cells than fit an answer is ok, with one more line: warn.
    """
    _line("ok", f"client: cytoserve {cytoserve.__version__}, Python {platform.python_version()}")
    with server.client(timeout) as client:
        try:
            answering = client.server_info()
            served = client.pipelines()
        except CytoserveError as error:
            _line("FAIL", f"server: {error}")
            raise SystemExit(ExitCode.SERVER_FAILED) from error
        _line("ok", f"server: {answering.name} {answering.version} at {server.url}")
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
    for doubt in found.doubts if isinstance(found, Cells) else ():
        if doubt.kind == CAPPED:  # of a dozen discs; size, masks and scores of them mean nothing
            _line("warn", f"{pipeline}: {doubt.seen} {_NOT_LEARNED}")
    return True


def _words(found: Cells | Foreground) -> str:
    if isinstance(found, Cells):
        return f"{len(found)} cells"
    nuclei = "" if found.centres is None else f", {len(found.centres)} nuclei"
    return f"{found.confluency:.1f} % {found.class_name}{nuclei}"


def _line(state: str, text: str) -> None:
    click.echo(f"{state:<5}{text}")


def self_test_frame() -> NDArray[np.uint16]:
    """Return a grey uint16 frame ``[192, 256]`` with a dozen bright discs, always the same."""
    random = np.random.default_rng(0)
    frame = np.full((192, 256), 900, np.float32)
    for x, y, radius in zip(
        random.uniform(20, 236, 12),
        random.uniform(20, 172, 12),
        random.uniform(7, 14, 12),
        strict=True,
    ):
        cv2.circle(frame, (round(x), round(y)), round(radius), (2600.0,), cv2.FILLED)
    frame = cv2.GaussianBlur(frame, (0, 0), 1.5) + random.normal(0, 40, frame.shape)
    return np.clip(frame, 0, 65535).astype(np.uint16)


def run_self_test(client: Client, pipeline: str, timeout: float) -> Cells | Foreground:
    """Send the frame to a pipeline; the client checks the answer against the contract.

    The result is not judged: no model was trained on this frame.

    Raises:
        CytoserveError: there is no answer, or it breaks the contract.
    """
    asked = find_pipeline(pipeline)
    if asked.is_semantic:
        return client.foreground(self_test_frame(), pipeline, timeout=timeout)
    if asked.is_prompted:
        return client.prompt(self_test_frame(), _SELF_TEST_PROMPTS, pipeline, timeout=timeout)
    return client.segment(self_test_frame(), pipeline, timeout=timeout)
