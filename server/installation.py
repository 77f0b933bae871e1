"""The embedded Triton: where its parts are, and the environment that it and its workers run in.

The ``nvidia-pytriton`` wheel carries the ``tritonserver`` binary. The environment gives the
libraries, the imports and the bound on threads.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.errors import InstallationError

PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

OWN_BACKENDS = Path(__file__).parent / "backends"


@dataclass(frozen=True)
class Installation:
    """Paths to the parts of the wheel on this machine."""

    tritonserver: Path
    """The server's executable."""

    python_backend: Path
    """Folder of ``libtriton_python.so``, which runs models written in Python."""

    stub: Path
    """The worker's executable, built for the running Python."""

    caches: Path
    """Folder of the response caches that ``tritonserver`` can load."""

    library_path: tuple[Path, ...]
    """Folders for ``LD_LIBRARY_PATH``."""

    setpriv: Path
    """Program of the operating system that ties a process's life to its parent's."""


def find_installation() -> Installation:
    """Locate every part, or raise `InstallationError` naming what is missing and the remedy."""
    package = importlib.util.find_spec("pytriton")  # not imported: it configures logging
    if package is None or package.origin is None:
        raise InstallationError(
            "The embedded Triton is not installed. Install the wheel that carries it: "
            "uv pip install --group server"
        )
    root = Path(package.origin).parent
    installation = Installation(
        tritonserver=root / "tritonserver/bin/tritonserver",
        python_backend=root / "tritonserver/backends/python",
        stub=root
        / f"tritonserver/python_backend_stubs/{PYTHON_VERSION}/triton_python_backend_stub",
        caches=root / "tritonserver/caches",
        library_path=(root.parent / "nvidia_pytriton.libs", python_library_folder()),
        setpriv=system_program("setpriv", package="util-linux"),
    )
    check(installation)
    return installation


def check(installation: Installation) -> None:
    """Raise `InstallationError` for whatever would make the server or its workers fail."""
    if not installation.stub.exists():
        built = ", ".join(sorted(path.name for path in installation.stub.parents[1].iterdir()))
        raise InstallationError(
            f"Triton's worker has no build for Python {PYTHON_VERSION}; it has builds for {built}. "
            "Make the environment with one of these."
        )
    if int(np.__version__.split(".")[0]) >= 2:
        raise InstallationError(
            f"Triton's worker reads tensors with numpy 1 only, and numpy {np.__version__} is "
            "installed: with it tensors would arrive empty. Install numpy<2."
        )


def system_program(name: str, package: str) -> Path:
    """Find a program on ``PATH``, or raise `InstallationError` naming its package."""
    found = shutil.which(name)
    if found is None:
        raise InstallationError(f"The program {name} is missing. Install the package {package}.")
    return Path(found)


def python_library_folder() -> Path:
    """Return the folder of the running Python's shared library, which the worker embeds."""
    name = f"libpython{PYTHON_VERSION}.so.1.0"
    folder = Path(sysconfig.get_config_var("LIBDIR") or os.devnull)
    if (folder / name).exists():
        return folder
    try:
        ctypes.CDLL(name)  # found by the system's own linker
    except OSError as error:
        raise InstallationError(
            f"{name} is missing: Triton's worker embeds Python by its shared library. Install the "
            f"package libpython{PYTHON_VERSION}, or use a Python of uv, which carries the library."
        ) from error
    return folder


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


def worker_environment(
    installation: Installation, environ: Mapping[str, str], more: Sequence[Path] = ()
) -> dict[str, str]:
    """Return ``environ`` with what the server and its workers need.

    Args:
        installation: the embedded Triton.
        environ: variables of this process.
        more: further folders of libraries.
    """
    libraries = [str(path) for path in (*installation.library_path, *more)]
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
