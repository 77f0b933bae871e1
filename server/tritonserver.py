"""One ``tritonserver`` child process."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from server.workers import can_work

LOAD_FAILURE = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.*)\"$")
LAST_LINES = 10
LAST_THREADS_S = 5.0
"""Maximum seconds that an ending process may take: a killed one frees its memory first."""


class TritonServer:
    """A started server. Its output goes to the file ``log``; it works in that file's folder."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=log.parent,  # Python workers import from the working folder first
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is the launcher's to handle
            )

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self.process.pid

    def end(self) -> str | None:
        """Say how the process ended, or None while it can work."""
        code = self.process.poll()
        if code is None:
            process = psutil.Process(self.pid)
            if can_work(process):
                return None
            if process.status() == psutil.STATUS_STOPPED:
                return "was stopped"
            # Its first thread is gone; how the process ended is known when the last one is gone.
            try:
                code = self.process.wait(LAST_THREADS_S)
            except subprocess.TimeoutExpired:
                return f"lost its first thread and has not ended within {LAST_THREADS_S:g} s"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"

    def stop(self, timeout: float) -> None:
        """Let the server finish its requests and end; kill it after ``timeout`` seconds."""
        self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def reap(self) -> None:
        """Take the exit status of a killed server, so that it does not stay as a zombie."""
        self.process.wait()

    def load_failures(self) -> dict[str, str]:
        """Return model -> reason for each model that did not load."""
        found = (LOAD_FAILURE.search(line) for line in self.log_lines())
        return {match["model"]: plain(match["reason"]) for match in found if match}

    def last_lines(self) -> str:
        """Return what the server said last: its own summary, or else the end of its log."""
        lines = self.log_lines()
        return "\n".join(
            [line for line in lines if line.startswith("error:")] or lines[-LAST_LINES:]
        )

    def log_lines(self) -> list[str]:
        """Return the log so far, with paths below the working folder."""
        text = self.log.read_text(errors="replace")
        return text.replace(f"{self.log.parent}/", "").splitlines()


def plain(reason: str) -> str:
    """Cut the Python traceback and class name that a worker adds to its reason."""
    return reason.split(r"\n\nAt:")[0].replace("Internal: TritonModelException: ", "")
