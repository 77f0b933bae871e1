"""Files written completely or not at all, and their hashes."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_READ_BYTES = 1 << 24

ODD_NAMES = "backslashreplace"
"""How text with file names is encoded: Linux allows names that are no Unicode. In JSON, what comes
of them is a valid escape, which is read back as the same name."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at any moment it is either the old file or the complete new one.

    Raises:
        OSError: the disk is full, or the folder is not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The end of the name is enough: a name that barely fits has no room for more.
    part = path.with_name(f".{uuid.uuid4().hex}.{path.name[-20:]}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file of any size, in bounded memory."""
    total = hashlib.sha256()
    with path.open("rb") as opened:
        while block := opened.read(_READ_BYTES):
            total.update(block)
    return total.hexdigest()


def array_sha256(array: NDArray[Any]) -> str:
    """Return the sha256 of an array's dtype, shape and values."""
    total = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()
