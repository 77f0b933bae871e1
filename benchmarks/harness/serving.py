"""Starts servers for measurements, without health checks, and names variants and transports."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from cytoserve.grpc_transport import GrpcTransport
from cytoserve.shared_memory_transport import SharedMemoryTransport
from server.embedded import EmbeddedServer
from server.variants import DEFAULT

GRPC = "gRPC"
SHARED_MEMORY = "shared memory"
TRANSPORTS = {GRPC: GrpcTransport, SHARED_MEMORY: SharedMemoryTransport}


@contextmanager
def serve_without_health_checks(
    repository: Path,
    pipelines: Sequence[str],
    variant: str = DEFAULT,
    *,
    options: Sequence[str] = (),
    **settings: Any,
) -> Iterator[EmbeddedServer]:
    """Serve ``pipelines`` without canaries and without a cache: a repeated frame is recomputed.

    Args:
        repository: the model repository.
        pipelines: names of its pipelines to serve.
        variant: `DEFAULT` or the name of a variant.
        options: further options of ``python -m server``.
        settings: further arguments of `EmbeddedServer`.

    Raises:
        ServerError: the pipelines cannot be served.
    """
    server = EmbeddedServer(
        repository,
        pipelines,
        response_cache_mb=0,
        variant=variant,
        options=options,
        **settings,
    )
    with server, paused_supervisor(server):
        yield server


@contextmanager
def paused_supervisor(server: EmbeddedServer) -> Iterator[None]:
    """Suspend the launcher: Triton continues to answer, but is not supervised.

    The launcher sends a canary through every pipeline that nobody uses for a while. A canary costs
    as much as a frame and would slow down anything that is timed beside the server. A separate
    process resumes the launcher when the block ends. It also does so when this process is killed,
    which the launcher then notices.
    """
    resume = subprocess.Popen(
        ["/bin/sh", "-c", f"read -r _; kill -CONT {server.pid}"],
        stdin=subprocess.PIPE,  # closed by the kernel when this process ends
        start_new_session=True,  # Ctrl-C in a terminal must not end it
    )
    assert resume.stdin is not None
    try:
        psutil.Process(server.pid).suspend()
        yield
    finally:
        resume.stdin.close()
        resume.wait()
