"""``cytoserve watch``: find and save the cells of images while they come to a folder."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import click

from cytoserve.cli import image_run
from cytoserve.cli.exit_codes import EPILOG, ExitCode
from cytoserve.cli.image_run import Job, Show, Tell
from cytoserve.cli.inputs import Input, absolute, file_key, searchable
from cytoserve.cli.job_options import job_options
from cytoserve.cli.job_run import JobRun, end, open_console
from cytoserve.cli.options import Server
from cytoserve.cli.run_record import DONE, SKIPPED, Entry
from cytoserve.cli.run_summary import image_line
from cytoserve.cli.viewer_window import viewer_window
from cytoserve.cli.watched_folder import WatchedFolder
from cytoserve.client import Client
from cytoserve.errors import DeadlineExceeded, ServerUnreachable

LOOKING_SHARE = 0.2
"""Most of the time that goes into looking at the folder, however long one look takes."""

SLICE_S = 0.1
"""Longest sleep in seconds before a signal to end is noticed."""


class WatchEnded(Exception):
    """Ctrl-C or SIGTERM has asked the watch to end."""


class Ending:
    """Ends a watch in order at the first Ctrl-C or SIGTERM, and at once at the second.

    The first lets the image that is being processed be finished, and ends every wait.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Ending:
        if threading.current_thread() is threading.main_thread():  # others get no signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def pause(self, seconds: float) -> None:
        """Sleep.

        Raises:
            WatchEnded: the watch was asked to end, before or meanwhile.
        """
        until = time.monotonic() + seconds
        while not self.is_asked:
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, SLICE_S))  # an event could deadlock with its own signal handler
        raise WatchEnded

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.is_asked = True
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


@dataclass
class FolderWatch:
    """Processes the images of a folder as they come; :meth:`watch` ends when it is asked to.

    Attributes:
        run: the run that processes and records the images.
        folder: finds the images.
        poll_s: pause between two looks at the folder in seconds.
        until_idle_s: how long nothing new may come before the watch ends; None watches on.
        pause: sleeps for some seconds, or raises `WatchEnded`.
        tell: is told a line for every image, and what else needs attention.
        show: is given every image that is done, with its frame and what was found, for a viewer.
    """

    run: JobRun
    folder: WatchedFolder
    poll_s: float
    until_idle_s: float | None
    pause: Callable[[float], None]
    tell: Tell
    show: Show | None = None
    clock: Callable[[], float] = time.monotonic
    _is_away: bool = field(default=False, init=False)
    _next_look: float = field(default=-math.inf, init=False)
    _skipped: int = field(default=0, init=False)
    _warned: set[str] = field(default_factory=set, init=False)
    _done: dict[str, Entry] = field(default_factory=dict, init=False)

    def watch(self) -> None:
        """Process images until the watch is ended, nothing new comes, or the server stays away."""
        self.run.images.pause = self.pause
        self.run.images.show = self.show
        with suppress(WatchEnded):
            self._watch()
        self._tell_skipped()
        self._leave_the_rest()

    def _watch(self) -> None:
        quiet_since = self.clock()
        while not self.run.images.stopped:
            self.pause(0)
            if self.clock() >= self._next_look and self._look():
                quiet_since = self.clock()
            given = None if self._is_away else self.folder.take()
            if given is not None:
                self._process(given)
                quiet_since = self.clock()
            elif self._is_idle(quiet_since):
                return
            else:
                self._tell_skipped()
                self.pause(max(0.0, self._next_look - self.clock()))

    def _look(self) -> bool:
        began = self.clock()
        try:
            news = self.folder.look()
        except OSError as error:
            self._tell_away(error)
            news = False
        else:
            if self._is_away:
                self.tell(f"the folder is there: {self.folder.folder}")
            self._is_away = False
        ended = self.clock()
        cost = ended - began
        self._next_look = ended + max(self.poll_s, cost / LOOKING_SHARE - cost)
        return news

    def _tell_away(self, error: OSError) -> None:
        if not self._is_away:
            self.tell(
                "waiting for the folder: a watched folder is one that can be listed; given: "
                f"{self.folder.folder}: {error.strerror}. Create it, or connect its drive: the "
                "watch goes on by itself."
            )
        self._is_away = True

    def _is_idle(self, quiet_since: float) -> bool:
        if self.until_idle_s is None or self.clock() - quiet_since < self.until_idle_s:
            return False
        return self._is_away or not self.folder.is_settling()

    def _process(self, given: Input) -> None:
        failed = False
        try:
            for key, entry in self.run.process(given):
                failed |= self._tell_plane(key, entry)
        except WatchEnded:
            self.folder.put_back(given)
            raise
        except OSError:  # the record could not be written
            if self.folder.is_there():
                raise
            self.folder.put_back(given)  # results are on a drive that went with the folder
            return
        if failed and not self.folder.is_there():
            self.folder.put_back(given)

    def _tell_plane(self, key: str, entry: Entry) -> bool:
        """Tell a line of a plane that is done; return whether it failed."""
        if entry["status"] == DONE:
            self._done[key] = entry
            self.tell(image_line(key, entry))
            self._warn(key, entry)
        elif entry["status"] == SKIPPED:
            self._skipped += 1
            if key in self._done:
                self.run.keep(key, self._done[key])
        else:
            return True
        return False

    def _warn(self, key: str, entry: Entry) -> None:
        """Tell the first warning of each kind at once, while it can still be acted on."""
        for kind, words in entry.get("warnings", {}).items():
            if kind not in self._warned:
                self._warned.add(kind)
                self.tell(f"warning: {key}: {words}")

    def _tell_skipped(self) -> None:
        if self._skipped:
            self.tell(f"skipped, as they are done: {self._skipped:,}")
        self._skipped = 0

    def _leave_the_rest(self) -> None:
        """Record what was not taken as not done, except what an earlier run has done."""
        left = 0
        files = self.run.record.files
        met = {file_key(key) for key in self.run.entries}
        done = {file_key(key) for key in files if files[key]["status"] in (DONE, SKIPPED)}
        for given, reason in self.folder.left():
            if given.key in met or given.key not in done:
                words = self.run.images.stopped or f"The watch ended before: {reason}."
                self.run.leave(given, words)
                left += 1
                last = f"{given.key}: {words}"
        if left:
            self.tell(f"not done: {left:,}, such as {last}")


def _finite(context: click.Context, parameter: click.Parameter, value: float | None) -> Any:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"A finite number of seconds; given: {value}.")
    return value


@click.command(epilog=EPILOG)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--settle",
    "settle_s",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    callback=_finite,
    help="A file is complete when its size and time have been the same for so long. Raise it if "
    "images are read half-written.",
)
@click.option(
    "--poll",
    "poll_s",
    type=click.FloatRange(min=0.01),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    callback=_finite,
    help="Pause between two looks at the folder. It is longer if a look itself takes long.",
)
@click.option(
    "--until-idle",
    "until_idle_s",
    type=click.FloatRange(min=0),
    default=None,
    metavar="SECONDS",
    callback=_finite,
    help="End when nothing new has come for so long.  [default: watch until Ctrl-C]",
)
@click.option(
    "--show",
    is_flag=True,
    help="Show the newest image and its cells in a napari window; closing it ends the watch.",
)
@job_options(wait_for_server=math.inf)
def watch(
    folder: Path,
    settle_s: float,
    poll_s: float,
    until_idle_s: float | None,
    show: bool,
    job: Job,
    server: Server,
    version: int | None,
) -> None:
    """Find the cells or the foreground in images as they come to FOLDER and its subfolders.

    For every acquisition software that saves images: it writes to FOLDER, and each image is
    processed once, when it is complete. Images that are there already are processed, too. Options,
    results and OUT/run.json are those of `cytoserve segment`. FOLDER need not exist yet, and may be
    a network share that comes and goes. A server that stops is waited for.

    Ctrl-C finishes the present image, prints the summary and ends; a second Ctrl-C ends at once.
    Run the same command again to go on: what is done is skipped.
    """
    folder = absolute(folder)
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(
            f"A folder is watched; given: {folder}, which is a file. Give the folder that it is in."
        )
    searchable(Path(os.path.realpath(folder)), Path(os.path.realpath(job.out)))
    tell = open_console().print
    with (
        Ending() as ending,
        server.client(job.timeout, version) as client,
        viewer_window(ending) if show else nullcontext() as view,
    ):
        run = _open(job, client, server.url, tell, ending.pause)
        found = WatchedFolder(folder, job.out, settle_s, tell, set(map(file_key, run.record.files)))
        tell(f"watching {folder}, with results in {job.out}. Ctrl-C ends the watch.")
        try:
            watching = FolderWatch(run, found, poll_s, until_idle_s, ending.pause, tell)
            if view is None:
                watching.watch()
            else:
                watching.show = lambda given, frame, cells: view.put(frame, cells)
                view.run_beside(watching.watch)
        finally:  # also when interrupted
            run.close()
    if not run.entries:
        end(ExitCode.NOTHING_TO_DO, f"No image came to {folder}. Check the path.")
    end(*run.outcome())


def _open(job: Job, client: Client, url: str, tell: Tell, pause: Callable[[float], None]) -> JobRun:
    """Open the run, and wait for the server for as long as the job says."""
    until = time.monotonic() + job.wait_for_server
    told = False
    while True:
        try:
            return JobRun.open(job, client, url, tell)
        except (ServerUnreachable, DeadlineExceeded) as error:
            if time.monotonic() >= until:
                raise
            if not told:
                tell(f"{job.waiting} for the server: {error}")
                told = True
        try:
            pause(image_run.PAUSE_S)
        except WatchEnded:
            end(ExitCode.SERVER_FAILED, f"The watch ended before the server at {url} answered.")
