"""Servers to measure: variant, weights and transport, without health checks."""

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

DEFAULT = "default"
"""Every model by its ``config.pbtxt``; the other names are those of `server.variants.VARIANTS`."""


SINGLE_GRAPH = "single-graph"
"""The variant that computes the default's graphs in another arrangement."""


def variant_options(name: str) -> list[str]:
    """Options of ``python -m server`` that choose `DEFAULT` or a variant."""
    return [] if name == DEFAULT else [f"--variant={name}"]


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
