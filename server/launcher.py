"""Serve the exported pipelines of a model repository until told to stop."""

from __future__ import annotations

import os
import re
import secrets
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cytoserve.contract import PIPELINES, Pipeline
from server.access import (
    AccessSettings,
    ServerAccess,
    is_loopback,
    open_access,
    refuse_open_server,
    shared_admin_key,
)
from server.cleanup import (
    RUN_VARIABLE,
    clean_up,
    kill_processes,
    start_watcher,
    sweep_shared_memory,
)
from server.errors import RepositoryError
from server.fastest_variant import choose
from server.installation import Installation, find_installation, lay_out, worker_environment
from server.log import Log
from server.options import RESPONSE_CACHE_MB
from server.port import reserve
from server.repository import PipelineExport, models_of_variant, survey
from server.served_repository import ServedRepository
from server.supervisor import Supervisor
from server.tritonserver import TritonServer
from server.updates import Updates
from server.variants import (
    DEFAULT,
    VARIANTS,
    Variant,
    check_machine,
    processor_instructions,
    runtime_folder,
    runtime_libraries,
)

MODEL_LOAD_THREADS = 16

READY_LINE = "Ready at {url}: {pipelines} ({seconds:.1f} s)"
READY = re.compile(r'^(?:\{.*"message": ")?Ready at (?P<url>\S+): ', re.MULTILINE)
"""Pattern that finds the ready line in a launcher's output."""


@dataclass(frozen=True)
class LaunchSettings:
    """Options chosen by the user."""

    model_repository: Path

    pipelines: tuple[str, ...]
    """Names from the contract; pipelines that are not exported are reported and left out."""

    grpc_port: int = 8001
    """Port of the gRPC endpoint; 0: any free port."""

    metrics_port: int | None = None
    """Port of the metrics; None: no metrics."""

    listen: str = "127.0.0.1"
    """Address of this machine to serve at."""

    exit_timeout: int = 10
    """Seconds that running requests get to end when the server is told to stop."""

    response_cache_mb: int = RESPONSE_CACHE_MB
    """MiB of memory for the answers of steps whose configuration says ``response_cache``.

    0: no answer is cached. The memory is taken at once, and the answers that were not used for
    longest make room for new ones."""

    variant: str | None = None
    """Name of one of `server.variants.VARIANTS`, or `DEFAULT`; None takes the fastest one that is
    proven here."""

    versions: int = 1
    """Number of versions of every pipeline that callers may ask for."""

    stop_at_eof: bool = False
    """Stop also when standard input ends, as it does when the process that started us dies."""

    access: AccessSettings = field(default_factory=AccessSettings)
    """Certificates and keys."""

    extra_flags: tuple[str, ...] = ()
    """Flags that are passed on to ``tritonserver``, after ours."""


@dataclass(frozen=True)
class Run:
    """One run of the launcher: its own marks in ``/proc``, ``/dev/shm`` and the temp folder."""

    id: str
    folder: Path


def serve(settings: LaunchSettings, log: Log) -> None:
    """Serve until SIGTERM or SIGINT; raise a `ServerError` if the server cannot start."""
    begun = time.monotonic()
    installation = find_installation()
    variant, pipelines = what_to_serve(settings, log.tell)
    refuse_open_server(settings.access, settings.listen)
    warn_if_open(settings, log.tell)
    stopping = stop_on_signals()
    if settings.stop_at_eof:
        threading.Thread(target=stop_at_eof, args=(stopping,), daemon=True).start()
    with reserve(settings.listen, settings.grpc_port, "--grpc-port") as port, new_run() as run:
        if settings.metrics_port is not None:
            reserve(settings.listen, settings.metrics_port, "--metrics-port").close()
        host = f"[{settings.listen}]" if ":" in settings.listen else settings.listen
        number = port.getsockname()[1]
        url = f"{host}:{number}"
        access = open_access(settings.access, run.folder)
        lay_out(run.folder / "backends", installation)
        # Triton starts workers with an unquoted shell line: no path may hold a space.
        repository = ServedRepository(
            settings.model_repository,
            run.folder / "model_repository",
            pipelines,
            variant.name if variant else None,
            settings.versions,
        )
        command = server_command(settings, installation, run, url, access)
        runtime = runtime_folder(variant)
        if runtime:
            # Workers import from their working folder first, and not at all from PYTHONPATH.
            (run.folder / "onnxruntime").symlink_to(runtime / "onnxruntime")
        environment = worker_environment(
            installation, {**os.environ, RUN_VARIABLE: run.id}, runtime_libraries(runtime)
        )

        def start() -> TritonServer:
            kill_processes(run.id)
            sweep_shared_memory(run.id)
            repository.lay_out()
            load = [f"--load-model={name}" for name in repository.load_names()]
            return TritonServer(
                [*command, *load, *settings.extra_flags],
                environment,
                triton_log,
            )

        triton_log = run.folder / "tritonserver.log"
        log.on_gpu = variant is not None and variant.on_cuda
        log.follow(triton_log, stopping)
        supervisor = Supervisor(start, url, access, pipelines, log.tell, stopping)
        with shared_admin_key(number, access.admin_key):
            supervisor.start_and_wait()
            if not stopping.is_set():
                names = ", ".join(pipeline.name for pipeline in pipelines)
                seconds = time.monotonic() - begun
                told = f"{access.scheme}{url}"
                log.announce(READY_LINE.format(url=told, pipelines=names, seconds=seconds))
            Updates(repository, lambda: access.client(url), log.tell, stopping).start()
            supervisor.watch()
            supervisor.stop(settings.exit_timeout)


def what_to_serve(
    settings: LaunchSettings, tell: Callable[[str], None]
) -> tuple[Variant | None, list[Pipeline]]:
    """Return the variant, None for the default, and the pipelines that are exported for it.

    Tell the operator about both.
    """
    variant = VARIANTS.get(settings.variant or DEFAULT)
    if variant:
        check_machine(variant, processor_instructions())
    repository = settings.model_repository
    exports = survey(repository, settings.pipelines, variant.name if variant else None)
    pipelines = exported(exports, repository, tell)
    if settings.variant is None:
        name, reason = choose(repository, pipelines)
        tell(f"Variant {name}: {reason}.")
        variant = VARIANTS.get(name)
    if variant:
        models = models_of_variant(repository, pipelines, variant.name)
        tell(f"Variant {variant.name} of {', '.join(models)}; all other models as by default.")
    return variant, pipelines


def exported(
    exports: Sequence[PipelineExport], repository: Path, tell: Callable[[str], None]
) -> list[Pipeline]:
    """Return the pipelines that can be served, and tell which cannot.

    Pipelines that were asked for by name are each told with the files that they lack. Where all
    are served that can be, one short line names the others.
    """
    absent = [export.pipeline.name for export in exports if export.missing]
    missing = [
        f"Pipeline {export.pipeline.name} is not exported: {', '.join(export.missing)} missing in "
        f"{repository}. Make it with: {export.command}"
        for export in exports
        if export.missing
    ]
    pipelines = [export.pipeline for export in exports if not export.missing]
    if not pipelines:
        raise RepositoryError("\n".join(["There is nothing to serve.", *missing]))
    if len(exports) == len(PIPELINES) and len(missing) > 1:
        missing = [
            f"Not exported, so not served: {', '.join(absent)}. "
            f"What is missing: python -m server --model-repository {repository} "
            f"--pipelines {','.join(absent)}"
        ]
    for line in missing:
        tell(line)
    return pipelines


def warn_if_open(settings: LaunchSettings, tell: Callable[[str], None]) -> None:
    """Warn about what ``--insecure`` allows to strangers."""
    if not settings.access.insecure or is_loopback(settings.listen):
        return
    if settings.access.tls_cert is None:
        tell(
            f"Warning: serving at {settings.listen} without TLS: whoever sees the network reads "
            "frames, answers and keys."
        )
    if settings.access.api_key_file is None and settings.access.tls_client_ca is None:
        tell(
            f"Warning: serving at {settings.listen} without a key: whoever reaches the port can "
            "use the models."
        )


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def stop_at_eof(stopping: threading.Event) -> None:
    """Set the event when standard input ends; earlier input is ignored."""
    # Not sys.stdin: a thread blocked in it is a fatal error when the interpreter ends.
    while os.read(0, 1024):
        pass
    stopping.set()


@contextmanager
def new_run() -> Iterator[Run]:
    """Make a run, and leave nothing of it behind, even if this process is killed."""
    run_id = f"cytoserve-{os.getpid()}-{secrets.token_hex(4)}"
    run = Run(run_id, Path(tempfile.mkdtemp(prefix=f"{run_id}-")))
    watcher = start_watcher(run.id, run.folder)
    try:
        yield run
    finally:
        clean_up(run.id, run.folder)
        watcher.communicate()


def server_command(
    settings: LaunchSettings,
    installation: Installation,
    run: Run,
    url: str,
    access: ServerAccess,
) -> list[str]:
    """Return the command line of ``tritonserver``, but for what to load and the user's flags."""
    host, port = url.rsplit(":", 1)
    metrics = settings.metrics_port is not None
    return [
        # The server ends with the thread that started it. TERM, not KILL: a server that ends by
        # itself ends its workers as well.
        *(str(installation.setpriv), "--pdeathsig", "TERM"),
        str(installation.tritonserver),
        f"--model-repository={run.folder / 'model_repository'}",
        f"--backend-directory={run.folder / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={run.id}",
        "--model-control-mode=explicit",
        # Loading mostly waits for the worker that completes the configuration.
        f"--model-load-thread-count={MODEL_LOAD_THREADS}",
        f"--exit-timeout-secs={settings.exit_timeout}",
        "--allow-http=false",
        f"--grpc-address={host}",
        f"--grpc-port={port}",
        "--reuse-grpc-port=true",  # shared with the launcher's reservation, see server.port
        f"--allow-metrics={str(metrics).lower()}",
        *([f"--metrics-address={host}", f"--metrics-port={settings.metrics_port}"] * metrics),
        *response_cache_flags(settings.response_cache_mb, installation),
        *access.flags,
    ]


def response_cache_flags(megabytes: int, installation: Installation) -> list[str]:
    """Return the flags that make ``tritonserver`` cache answers in its memory; none for 0."""
    if not megabytes:
        return []
    return [
        f"--cache-directory={installation.caches}",
        f"--cache-config=local,size={megabytes * 1024 * 1024}",
    ]
