"""Find the embedded Triton: the ``tritonserver`` binary of the ``nvidia-pytriton`` wheel."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.errors import InstallationError

PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


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
