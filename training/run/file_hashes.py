"""Hashes that distinguish data sets and weights of the same name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from cytoserve.files import file_sha256


def hash_files(paths: Iterable[Path]) -> str:
    """Compute one sha256 over the names and contents of files, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(path.name.encode())
        total.update(bytes.fromhex(file_sha256(path)))
    return total.hexdigest()
