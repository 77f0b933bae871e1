"""A folder that fills: which of its images are complete and new, found by listing it.

Listing sees what events miss: files on network shares, and all that happened while nobody listened.
One look at 100,000 files costs about half a second. Nothing is hashed or read here, and only sizes
and times of the files that are there are remembered.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from cytoserve.cli.image_run import Tell
from cytoserve.cli.inputs import Input, is_image, is_image_folder, is_searched
from cytoserve.cli.run_record import holds_record

Signature = tuple[int, int]
"""Size in bytes and modification time in ns. Times are only compared for equality, because the
clock of a share or a camera may be wrong."""


@dataclass
class _Waiting:
    """A file that is not taken yet.

    Attributes:
        since: when the signature was first seen, in seconds of a monotonic clock.
        queued: whether the file has settled and is to be taken.
        refused: why the file could not be opened.
    """

    __slots__ = ("queued", "refused", "signature", "since")
    signature: Signature
    since: float
    queued: bool
    refused: str


class WatchedFolder:
    """Hands out every image in a folder once it is complete, and again if it changes.

    A file is complete when its size and time have been the same for ``settle_s`` seconds, it is not
    empty, and it can be opened. A file that was renamed into place is complete after the same time.
    Subfolders are searched, except ``out`` and other folders that hold results of cytoserve.

    Args:
        folder: the folder, which need not exist.
        out: folder of the results; it may be in ``folder``.
        settle_s: how long a file must stay the same, in seconds.
        tell: is told in a line what needs attention.
        known: keys of images that are recorded already. They are taken last, so that new images
            do not wait until the old ones are compared with the record.
        clock: a clock that never jumps, in seconds.
    """

    def __init__(
        self,
        folder: Path,
        out: Path,
        settle_s: float,
        tell: Tell,
        known: Container[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self._out = out
        self._settle_s = settle_s
        self._tell = tell
        self._known = known
        self._clock = clock
        self._waiting: dict[str, _Waiting] = {}
        self._taken: dict[str, Signature] = {}
        self._queue: deque[str] = deque()
        self._known_queue: deque[str] = deque()
        self._unlisted: list[str] = []
        self._missed: set[str] = set()
        self._told: set[str] = set()

    def look(self) -> bool:
        """List the folder; return whether an image is new or has changed since the last look.

        Raises:
            OSError: the folder cannot be listed; nothing is forgotten.
        """
        now, news = self._clock(), False
        seen: set[str] = set()
        settled: list[str] = []
        self._unlisted.clear()
        for key, entry in self._images():
            seen.add(key)
            signature = self._new_signature(key, entry)
            if signature is None:
                continue
            waiting = self._waiting.get(key)
            if waiting is None or waiting.signature != signature:
                self._waiting[key] = _Waiting(signature, now, False, "")
                news = True
            elif self._is_settled(waiting, now):
                waiting.queued = True
                settled.append(key)
        self._forget_all_but(seen)
        for key in sorted(settled):
            (self._known_queue if key in self._known else self._queue).append(key)
        return news

    def take(self) -> Input | None:
        """Return the next complete image, or None if there is none now."""
        while (key := self._next()) is not None:
            waiting = self._waiting.get(key)
            if waiting is None or not waiting.queued:  # it changed or went since the last look
                continue
            given = Input(self.folder / key, key)
            try:
                signature = _signature(given.path.stat())
                with given.path.open("rb") as file:
                    file.read(1)  # Windows refuses locked bytes only when they are read
            except FileNotFoundError:
                del self._waiting[key]
                self._missed.add(key)
                continue
            except OSError as error:
                waiting.queued = False  # the next look tries again
                self._refuse(key, waiting, error)
                continue
            if signature != waiting.signature:
                self._waiting[key] = _Waiting(signature, self._clock(), False, "")
                continue
            del self._waiting[key]
            self._taken[key] = signature
            return given
        return None

    def put_back(self, given: Input) -> None:
        """Let an image that was taken be the next one again."""
        signature = self._taken.pop(given.key)
        self._waiting[given.key] = _Waiting(signature, self._clock(), True, "")
        self._queue.appendleft(given.key)

    def is_there(self) -> bool:
        """Tell whether the folder exists now."""
        return self.folder.is_dir()

    def is_settling(self) -> bool:
        """Tell whether an image waits that may soon be taken: not if it is empty or refused."""
        return any(not each.refused and each.signature[0] for each in self._waiting.values())

    def left(self) -> Iterator[tuple[Input, str]]:
        """Yield the images that were not taken, each with the reason."""
        for key, waiting in sorted(self._waiting.items()):
            if waiting.refused:
                reason = f"it could not be read: {waiting.refused}"
            elif not waiting.signature[0]:
                reason = "it was empty"
            else:
                reason = "it waited for its turn" if waiting.queued else "it was still changing"
            yield Input(self.folder / key, key), reason

    def _is_settled(self, waiting: _Waiting, now: float) -> bool:
        is_whole = waiting.signature[0] > 0 and now - waiting.since >= self._settle_s
        return is_whole and not waiting.queued

    def _new_signature(self, key: str, entry: os.DirEntry[str]) -> Signature | None:
        """Return a file's signature, or None if the file is not to be waited for.

        On Windows, a listing may lag behind for a file that is being written, so a file that is not
        known to be taken is asked for itself.
        """
        taken = self._taken.get(key)
        try:
            if taken is not None and _signature(entry.stat()) == taken:
                return None
            status = Path(entry.path).stat()
        except FileNotFoundError:  # gone since it was listed, or a link to nothing
            return None
        except OSError as error:
            self._tell_once(key, error)
            return None
        if not stat.S_ISREG(status.st_mode) or _signature(status) == taken:
            return None
        return _signature(status)

    def _images(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield key and entry of every image file, one listing at a time."""
        out = self._out_key()
        folders = [""]  # keys, with a slash at the end below the top
        linked: set[Path] = set()
        while folders:
            here = folders.pop()
            try:
                with os.scandir(self.folder / here) as listing:
                    for entry in listing:
                        if entry.is_dir():
                            if self._is_searched(here + entry.name, entry, out, linked):
                                folders.append(f"{here}{entry.name}/")
                        elif is_image(entry.name):
                            yield here + entry.name, entry
            except OSError as error:
                if not here:
                    raise
                if not isinstance(error, FileNotFoundError):  # it is not gone, but refuses
                    self._unlisted.append(here)
                    self._tell_once(here, error)

    def _is_searched(
        self, key: str, entry: os.DirEntry[str], out: str | None, linked: set[Path]
    ) -> bool:
        if not is_searched(entry.name) or key == out or not self._is_new(entry, linked):
            return False
        if is_image_folder(Path(entry.path)):
            if key not in self._told:
                self._told.add(key)
                self._tell(
                    f"not watched: {entry.path}, of which no one can tell when it is complete. "
                    "Call `cytoserve segment` when it is."
                )
            return False
        if not holds_record(entry.path):
            return True
        if key not in self._told:
            self._told.add(key)
            self._tell(f"not searched: {entry.path}, which holds results of cytoserve")
        return False

    def _is_new(self, entry: os.DirEntry[str], linked: set[Path]) -> bool:
        """Tell whether a folder is found here alone; a link may lead to one that is there too."""
        if not entry.is_symlink():
            return True
        real, top = Path(os.path.realpath(entry.path)), Path(os.path.realpath(self.folder))
        is_result = real.is_relative_to(os.path.realpath(self._out))
        if real in linked or real.is_relative_to(top) or top.is_relative_to(real) or is_result:
            return False
        linked.add(real)
        return True

    def _out_key(self) -> str | None:
        """Return the key of ``out``, whatever links lead there; None if it is outside."""
        folder, out = (Path(os.path.realpath(path)) for path in (self.folder, self._out))
        return out.relative_to(folder).as_posix() if out.is_relative_to(folder) else None

    def _forget_all_but(self, seen: set[str]) -> None:
        unlisted = tuple(self._unlisted)
        for key in self._taken.keys() - seen:
            if not key.startswith(unlisted):
                del self._taken[key]
        for key in self._waiting.keys() - seen:
            if not key.startswith(unlisted) and self._waiting.pop(key).queued:
                self._missed.add(key)
        if missed := self._missed - seen:
            self._tell(f"moved or deleted before they were read: {_some(missed)}")
        self._missed.clear()

    def _refuse(self, key: str, waiting: _Waiting, error: OSError) -> None:
        waiting.refused = error.strerror or str(error)
        self._tell_once(key, error)

    def _tell_once(self, key: str, error: OSError) -> None:
        if key not in self._told:
            self._told.add(key)
            self._tell(f"waiting for {key}, which cannot be read: {error.strerror or error}")

    def _next(self) -> str | None:
        for queue in (self._queue, self._known_queue):
            if queue:
                return queue.popleft()
        return None


def _signature(status: os.stat_result) -> Signature:
    return status.st_size, status.st_mtime_ns


def _some(keys: set[str]) -> str:
    shown = min(keys)
    return shown if len(keys) == 1 else f"{len(keys):,} images, such as {shown}"
