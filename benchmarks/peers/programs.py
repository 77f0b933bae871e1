"""Runs the programs of peers in their own environments, and ends them with all their children."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

from server.cleanup import RUN_VARIABLE, kill_processes, processes_of
from server.installation import folder_of, joined
from server.launcher import Run, new_run

ROOT = Path(__file__).parents[2]

ENVIRONMENTS = ROOT / ".bench"
"""Folder with an environment per peer."""

MAKE_TARGET = "make peers"
"""Command that makes the environments."""

LAST_LINES = 15
"""Number of lines of a program's log that an error shows."""


class MissingEnvironment(Exception):
    """A peer is not installed; the text names the remedy."""


class PeerError(Exception):
    """A program of a peer ended, did not become ready, or did not answer."""


def environment_of(peer: str) -> Path:
    """Return the folder of a peer's virtual environment.

    Raises:
        MissingEnvironment: the environment is absent or incomplete.
    """
    folder = ENVIRONMENTS / peer
    if not (folder / ".installed").exists():
        raise MissingEnvironment(
            f"{peer} is left out: it has no environment in {folder}. `{MAKE_TARGET}` makes it."
        )
    return folder


def installed_version(environment: Path, package: str) -> str:
    """Return the version of ``package`` in a virtual environment."""
    places = [str(path) for path in environment.glob("lib/python3*/site-packages")]
    [found] = importlib.metadata.distributions(name=package, path=places)
    return found.version


class Program:
    """A started program and all processes that belong to it.

    Args:
        run: the run that marks its processes and holds its log.
        command: the program and its arguments.
        variables: environment variables in addition to this process's.
        number: name of its log within the run.
        by_lines: whether it reads requests from standard input and answers on standard output. If
            not, standard output goes to the log.
    """

    def __init__(
        self,
        run: Run,
        command: Sequence[str],
        variables: Mapping[str, str],
        *,
        number: int,
        by_lines: bool,
    ) -> None:
        self.command = command
        self.run = run
        self._log = run.folder / f"{number}.log"
        imports = joined(str(ROOT), str(folder_of("cytoserve")))
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **variables, RUN_VARIABLE: run.id, "PYTHONPATH": imports},
                cwd=run.folder,
                stdin=subprocess.PIPE if by_lines else subprocess.DEVNULL,
                stdout=subprocess.PIPE if by_lines else log,
                stderr=log,
                start_new_session=True,  # only this process handles Ctrl-C
                text=True,
            )

    @property
    def requests(self) -> IO[str]:
        """The program's standard input."""
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def answers(self) -> IO[str]:
        """The program's standard output."""
        assert self.process.stdout is not None
        return self.process.stdout

    def failed(self, what: str) -> PeerError:
        """Return an error that says what happened, with the last lines that the program wrote."""
        last = "\n".join(self._log.read_text(errors="replace").splitlines()[-LAST_LINES:])
        return PeerError(f"`{' '.join(self.command)}` {what}:\n{last}")

    def members(self) -> list[psutil.Process]:
        """Return the processes of its run, including those that its own processes started."""
        return [psutil.Process(pid) for pid in processes_of(self.run.id)]


@contextmanager
def programs(
    commands: Sequence[Sequence[str]], variables: Mapping[str, str], *, by_lines: bool
) -> Iterator[list[Program]]:
    """Run programs during the block; they also end when this process is killed."""
    started: list[Program] = []
    with new_run() as run:
        try:
            for number, command in enumerate(commands):
                started.append(Program(run, command, variables, number=number, by_lines=by_lines))
            yield started
        finally:
            # All processes go first: a program's children may hold its standard output open.
            kill_processes(run.id)
            for each in started:
                each.process.communicate()
