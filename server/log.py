"""What the server tells its operator: lines of text, or one JSON object per line."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

POLL_S = 0.2
"""Seconds between two looks at Triton's log."""

TRITON_LINE = re.compile(r'^(?P<level>[WE])\d{4} \S+ \d+ (?P<place>\S+)\] "?(?P<message>.*?)"?$')
"""A warning or an error of Triton's log, such as ``E1201 05:13:58.12 77 model.cc:9] "text"``."""

REQUEST = re.compile(r"\[request id: (?P<id>[^\]]+)\] ")
"""How Triton names a request, and the ``onnxruntime`` backend one that failed."""

NO_GPU = re.compile("CUDA|Cuda|pinned")
"""What Triton complains of where no GPU is used."""

LEVELS = {"W": "warning", "E": "error"}


class Log:
    """Writes the launcher's own lines, and what Triton says of requests that failed.

    Args:
        announce: writes the line that says that the server is ready.
        tell: writes all other lines.
        as_json: write objects with ``time``, ``level``, ``source`` and ``message``, and all of
            Triton's warnings and errors. Those of a request have its id as ``request``.
    """

    def __init__(
        self, announce: Callable[[str], None], tell: Callable[[str], None], as_json: bool
    ) -> None:
        self._announce = announce
        self._tell = tell
        self.as_json = as_json
        self.on_gpu = False
        """Whether what Triton says of CUDA matters."""

    def announce(self, line: str) -> None:
        """Say that the server is ready."""
        self._announce(self._form("info", "launcher", line))

    def tell(self, line: str) -> None:
        """Say anything else."""
        level = "warning" if line.startswith("Warning: ") else "info"
        self._tell(self._form(level, "launcher", line))

    def tell_of_triton(self, line: str) -> None:
        """Pass on a line of Triton's log, if operators should see it."""
        found = TRITON_LINE.match(line)
        if found is None:
            return
        message, about = found["message"], REQUEST.search(found["message"])
        if self.as_json and (self.on_gpu or not NO_GPU.search(message)):
            request = {"request": about["id"]} if about else {}
            place = {"place": found["place"]}
            self._tell(self._form(LEVELS[found["level"]], "triton", message, **place, **request))
        elif about:
            self._tell(f"Error: {message}")

    def _form(self, level: str, source: str, message: str, **more: str) -> str:
        if not self.as_json:
            return message
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        entry = {"time": now, "level": level, "source": source, "message": message, **more}
        return json.dumps(entry, ensure_ascii=False)

    def follow(self, file: Path, stopping: threading.Event) -> None:
        """Pass on Triton's log from a thread of its own, until ``stopping`` is set."""
        threading.Thread(target=self._follow, args=(file, stopping), daemon=True).start()

    def _follow(self, file: Path, stopping: threading.Event) -> None:
        lines = new_lines(file)
        while not stopping.wait(POLL_S):
            for line in next(lines):
                self.tell_of_triton(line)


def new_lines(file: Path) -> Iterator[list[str]]:
    """Yield the complete lines that were added since the last look, for ever.

    A file that became shorter was begun anew, as by a server that was restarted.
    """
    read, rest = 0, b""
    while True:
        size = file.stat().st_size if file.exists() else 0
        if size < read:
            read, rest = 0, b""
        added = b""
        if size > read:
            with file.open("rb") as opened:
                opened.seek(read)
                added = opened.read()
            read += len(added)
        *complete, rest = (rest + added).split(b"\n")
        yield [line.decode(errors="replace") for line in complete]
