"""Environment of ``tritonserver`` and its workers: libraries, imports and the bound on threads."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from server.installation import Installation

OWN_BACKENDS = Path(__file__).parent / "backends"


def lay_out(folder: Path, installation: Installation) -> Path:
    """Copy the Python backend with its stub, and our own backends, to ``folder``; return it.

    Triton refuses a backend whose library is a link out of the directory, so these are copies.
    """
    shutil.copytree(installation.python_backend, folder / "python")
    shutil.copy2(installation.stub, folder / "python")
    for backend in OWN_BACKENDS.iterdir():
        shutil.copytree(
            backend, folder / backend.name, ignore=shutil.ignore_patterns("__pycache__")
        )
    return folder


CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores(quota_file: Path = CGROUP_QUOTA) -> int:
    """Return how many cores this process may use: its affinity, or fewer by a cgroup's quota."""
    affinity = len(os.sched_getaffinity(0))
    if not quota_file.exists():
        return affinity
    quota, period = quota_file.read_text().split()
    if quota == "max":
        return affinity
    return max(1, min(affinity, math.floor(int(quota) / int(period))))


def worker_environment(installation: Installation, environ: Mapping[str, str]) -> dict[str, str]:
    """Return ``environ`` with what the server and its workers need."""
    libraries = [str(path) for path in installation.library_path]
    imports = str(folder_of("cytoserve"))
    return {
        **environ,
        "LD_LIBRARY_PATH": joined(*libraries, environ.get("LD_LIBRARY_PATH", "")),
        # The worker's Python finds this environment's packages through the first `python3` on PATH.
        "PATH": joined(str(Path(sys.executable).parent), environ.get("PATH", os.defpath)),
        "PYTHONPATH": joined(imports, environ.get("PYTHONPATH", "")),
        "ORT_DISABLE_TELEMETRY": "1",
        **thread_bounds(environ),
    }


def thread_bounds(environ: Mapping[str, str]) -> dict[str, str]:
    """Bound every thread pool of a worker; the user's own ``OMP_NUM_THREADS`` takes precedence.

    Each session may use every core, although there are several sessions: the steps of one request
    run one after the other, so a lone request gets the whole machine. When several requests run at
    once, spinning idle threads would oversubscribe it, but the backend lets them spin for
    microseconds only. On 2 busy cores, two sessions of a small convolution network together ran 164
    to 181 times per second with 2 threads each, 102 to 147 times with 1 thread each, and 56 to 58
    times with 2 threads that keep spinning. Steps too light to share among threads say
    ``intra_op_thread_count`` 1 in their configuration. Several instances of one model share the
    bound, because they are meant to run together. Pools other than ONNX Runtime's get 1.
    """
    threads = environ.get("OMP_NUM_THREADS") or str(available_cores())
    return {
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": "1",
        "OPENCV_FOR_THREADS_NUM": "1",
    }


def folder_of(package: str) -> Path:
    """Return the folder from which ``package`` is imported here."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parents[1]


def joined(*paths: str) -> str:
    """Join the paths that are not empty: an empty one would mean the current folder."""
    return os.pathsep.join(filter(None, paths))
