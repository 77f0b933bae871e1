"""Lay out the folder that ``tritonserver --backend-directory`` reads."""

from __future__ import annotations

import shutil
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
