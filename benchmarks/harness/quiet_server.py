"""A server that answers nobody but its caller, so that times are those of the caller's requests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness.served_variant import DEFAULT, variant_options
from server.embedded import EmbeddedServer


@contextmanager
def serve_without_health_checks(
    repository: Path,
    pipelines: Sequence[str],
    variant: str = DEFAULT,
    *,
    options: Sequence[str] = (),
    **settings: Any,
) -> Iterator[EmbeddedServer]:
    """Serve ``pipelines`` without canaries, and keep no answers: a frame sent again is computed.

    Args:
        repository: the model repository.
        pipelines: which of its pipelines.
        variant: as which variant.
        options: more of ``python -m server``.
        settings: more of `EmbeddedServer`.

    Raises:
        ServerError: it cannot be served.
    """
    server = EmbeddedServer(
        repository,
        pipelines,
        response_cache_mb=0,
        options=[*variant_options(variant), *options],
        **settings,
    )
    with server, paused_supervisor(server):
        yield server


@contextmanager
def paused_supervisor(server: EmbeddedServer) -> Iterator[None]:
    """Suspend the launcher: Triton answers on, but is not supervised.

    The launcher sends a canary through every pipeline that nobody uses for a while, which costs as
    much as a frame, and would slow down whatever is timed beside the server. A process of its own
    resumes it when the block ends, or when this process is killed, and the launcher then sees that.
    """
    resume = subprocess.Popen(
        ["/bin/sh", "-c", f"read -r _; kill -CONT {server.pid}"],
        stdin=subprocess.PIPE,  # closed by the kernel when this process ends
        start_new_session=True,  # Ctrl-C in a terminal is not for it
    )
    assert resume.stdin is not None
    try:
        psutil.Process(server.pid).suspend()
        yield
    finally:
        resume.stdin.close()
        resume.wait()
