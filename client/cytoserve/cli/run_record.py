"""``run.json``: the record of every image, written so that a killed run loses nothing.

During a run, every finished image appends one line to ``run.journal``. When the run ends, or the
next run starts, the lines go into ``run.json``, which is replaced as a whole.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

import cytoserve
from cytoserve.client import Client
from cytoserve.files import ODD_NAMES, write_atomically


def run_facts(
    client: Client, url: str, pipeline: str, settings: Any, save: Sequence[str], timeout: float
) -> Entry:
    """Return versions, server, pipeline and settings; ``settings`` is written unchanged."""
    server = client.server_info()
    return {
        "cytoserve": cytoserve.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "server": {"url": url, "name": server.name, "version": server.version},
        "pipeline": pipeline,
        "settings": settings,
        "save": list(save),
        "timeout_s": timeout,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


DONE, SKIPPED, FAILED, NOT_DONE = STATES = ("done", "skipped", "failed", "not done")
"""State of an image after a run; a skipped image was done earlier and is up to date."""

Entry = dict[str, Any]

_NAME = "run.json"
_START = 64  # characters, enough for the first key of a record


@dataclass
class RunRecord:
    """The record of one output folder.

    Attributes:
        folder: the folder of ``run.json``.
        files: key of an image -> its record.
    """

    folder: Path
    files: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> RunRecord:
        """Read the record of earlier runs from ``folder``, which need not exist.

        Raises:
            ValueError: ``run.json`` exists, but cytoserve did not write it.
            OSError: ``run.json`` cannot be read.
        """
        record = cls(folder)
        if record.path.exists():
            try:
                record.files = dict(json.loads(record.path.read_text("utf-8"))["files"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{record.path} must be a record that cytoserve wrote; given: {error!r}. "
                    "Move it away, or choose another --out."
                ) from error
        if record._journal.exists():
            for line in record._journal.read_text("utf-8").splitlines():
                record._replay(line)
        return record

    @property
    def path(self) -> Path:
        """Path of the record."""
        return self.folder / _NAME

    @property
    def _journal(self) -> Path:
        return self.folder / "run.journal"

    def put(self, key: str, entry: Entry) -> None:
        """Write the record of one image to disk at once."""
        self.files[key] = entry
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.write("\n" + json.dumps([key, entry]))  # after an incomplete line, if any

    def save(self, run: Entry) -> None:
        """Write ``run.json``: the facts of this run, then the images in order."""
        files = dict(sorted(self.files.items()))
        content = json.dumps({**run, "files": files}, indent=1, ensure_ascii=False)
        write_atomically(self.path, content.encode("utf-8", ODD_NAMES))
        self._journal.unlink(missing_ok=True)

    def _replay(self, line: str) -> None:
        try:
            key, entry = json.loads(line)
        except ValueError:
            return  # the line that was being written when the run was killed
        self.files[key] = entry


def holds_record(folder: str) -> bool:
    """Tell whether a folder has a ``run.json`` that cytoserve wrote, so that its images are
    results."""
    try:
        with Path(folder, _NAME).open(encoding="utf-8") as record:
            return record.read(_START).lstrip("{ \n").startswith('"cytoserve"')
    except (OSError, ValueError):
        return False


def open_record(folder: Path, run: Entry) -> RunRecord:
    """Open the record of ``folder``, and check that it is writable before any work is done.

    Raises:
        click.UsageError: the record cannot be read or written.
    """
    try:
        record = RunRecord.open(folder)
        record.save(run)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"Results cannot go to --out {folder}: {error}") from error
    return record
