"""Run ``python -m server`` as a child: for tests, benchmarks and demonstrations."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tritonclient.grpc import InferenceServerClient

from cytoserve.access import admin_headers, read_address
from cytoserve.contract import PIPELINES
from server.access import ServerAccess
from server.errors import StartError
from server.installation import folder_of, joined
from server.launcher import READY
from server.options import RESPONSE_CACHE_MB
from server.supervisor import START_TIMEOUT_S
from server.variants import DEFAULT

LAST_LINES = 20
POLL_S = 0.05
"""Seconds between two checks for the ready line."""

STOP_TIMEOUT_S = 30.0
"""Seconds within which the launcher must end when told to stop."""


class EmbeddedServer:
    """The real launcher as a child process: ready when the block begins, gone when it ends.

    It also ends when this process dies, even by SIGKILL.

    ::

        with EmbeddedServer(Path("model_repository")) as server:
            client = Client(server.url)

    Raise `StartError`, with the launcher's last lines, if it does not come up within ``timeout``
    seconds.
    """

    def __init__(
        self,
        model_repository: Path,
        pipelines: Sequence[str] | None = None,
        grpc_port: int = 0,
        *,
        variant: str = DEFAULT,
        response_cache_mb: int = RESPONSE_CACHE_MB,
        options: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        timeout: float = START_TIMEOUT_S + 30,  # longer, so that the launcher reports what is wrong
    ) -> None:
        self.command = [
            *(sys.executable, "-m", "server"),
            f"--model-repository={model_repository}",
            f"--pipelines={','.join(pipelines or PIPELINES)}",
            f"--grpc-port={grpc_port}",
            f"--variant={variant}",
            f"--response-cache-mb={response_cache_mb}",
            "--stop-at-eof",
            *options,
        ]
        self.repository = model_repository
        self.variables = variables or {}
        """Variables of the launcher's environment, on top of those of this process."""
        self.timeout = timeout
        self.url = ""
        """``host:port`` of the gRPC endpoint, once started."""

    @property
    def pid(self) -> int:
        """Process id of the launcher."""
        return self.process.pid

    @property
    def output(self) -> str:
        """All that the launcher has printed so far."""
        return Path(self.log.name).read_text(errors="replace")

    def admin_client(self) -> InferenceServerClient:
        """Return a client that may make every call, such as loading a model."""
        address = read_address(self.url)
        return ServerAccess((), admin_headers(address)).client(address.target)

    def start(self) -> None:
        """Start the launcher and wait until it is ready."""
        imports = joined(str(folder_of("server")), str(folder_of("cytoserve")))
        path = joined(imports, os.environ.get("PYTHONPATH", ""))
        self.log = tempfile.NamedTemporaryFile(prefix="cytoserve-", suffix=".log")  # noqa: SIM115
        self.process = subprocess.Popen(
            self.command,
            env={**os.environ, "PYTHONPATH": path, **self.variables},
            stdin=subprocess.PIPE,  # closed by the kernel when this process ends
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + self.timeout
        while (ready := READY.search(self.output)) is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                last = "\n".join(self.output.splitlines()[-LAST_LINES:])
                self.stop()
                raise StartError(f"`{' '.join(self.command)}` did not become ready:\n{last}")
            time.sleep(POLL_S)
        self.url = ready["url"]

    def stop(self) -> None:
        """Stop the launcher, which lets running requests finish."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()  # its watcher cleans up the rest
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.log.close()

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
