"""The frames between the acquisition and the server: which wait, which are sent, which are not.

All decisions are made here, under one lock that is held for microseconds, so that every frame is
counted exactly once.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter, deque
from typing import Literal

from cytoserve.acquisition.results import Results
from cytoserve.acquisition.statistics import MAX_DURATIONS, AnalyzerStatistics, percentiles
from cytoserve.acquisition.tickets import Status, Ticket
from cytoserve.cells import Cells
from cytoserve.errors import DeadlineExceeded, InvalidRequest
from cytoserve.foreground import Foreground

WhenBusy = Literal["drop_oldest", "drop_newest", "wait"]
"""What happens to a new frame if as many frames as may wait are waiting already.

* ``drop_oldest``: the frame that waits longest is dropped, so the newest frames are analysed.
* ``drop_newest``: the new frame is dropped.
* ``wait``: ``submit`` blocks until there is room, at most until the new frame's deadline. No frame
  is dropped. This is the only policy that can hold the acquisition up.
"""

_NEWER = "A newer frame took its place while the server was busy."
_OLDER = "Older frames were waiting for the server, which was busy."
_CLOSED = "The analyzer was closed before the frame was answered."


class FrameQueue:
    """The frames of one analyzer.

    Args:
        size: maximum number of frames that wait, besides those that are in flight.
        max_in_flight: number of threads that take frames.
        when_busy: what happens to a frame that finds no room.
    """

    def __init__(self, size: int, max_in_flight: int, when_busy: WhenBusy) -> None:
        self._size = size
        self._free = max_in_flight
        self._when_busy = when_busy
        self._lock = threading.RLock()
        # One lock, and a condition per kind of waiter, so that submit wakes nobody in vain.
        self._frame_came = threading.Condition(self._lock)
        self._room_came = threading.Condition(self._lock)
        self._deadline_came = threading.Condition(self._lock)
        self._all_known = threading.Condition(self._lock)
        self._waiting: deque[Ticket] = deque()
        self._in_flight: list[Ticket] = []
        self._counts: Counter[str] = Counter()
        self._durations: deque[float] = deque(maxlen=MAX_DURATIONS)
        self._readers: weakref.WeakSet[Results] = weakref.WeakSet()
        self._closed = False

    @property
    def is_closed(self) -> bool:
        """Whether frames are no longer taken in."""
        return self._closed

    def put(self, ticket: Ticket, problem: Exception | None = None) -> None:
        """Take a frame in.

        Args:
            ticket: the frame's.
            problem: why the frame cannot be analysed, if so.
        """
        with self._lock:
            ticket.number = self._counts["submitted"]
            self._counts["submitted"] += 1
            for reader in self._readers:
                reader._submitted(ticket)
            if problem is None and self._when_busy == "wait":
                self._wait_for_room(ticket)
            if self._closed:
                problem = problem or InvalidRequest(
                    "A frame is submitted before the analyzer is closed; given: a frame after "
                    "close(). Make another analyzer."
                )
            if problem is not None:
                self._finish(ticket, "failed", error=problem)
            elif self._has_room():
                self._add(ticket)
            elif self._when_busy == "drop_newest":
                self._finish(ticket, "dropped", reason=_OLDER)
            elif self._when_busy == "drop_oldest":
                oldest = self._waiting.popleft()
                self._add(ticket)
                self._finish(oldest, "dropped", reason=_NEWER)
            else:
                self._finish(ticket, "late", error=_too_late(ticket))

    def skip(self, ticket: Ticket) -> None:
        """Count a frame that was left out."""
        with self._lock:
            self._counts["skipped"] += 1
        ticket._finish("skipped", reason="select left the frame out.")

    def take(self) -> Ticket | None:
        """Wait for a frame that is to be sent; None after :meth:`close`, once none waits.

        The thread that took a frame calls :meth:`finish`, and :meth:`free` once it can take more.
        """
        with self._lock:
            while not self._waiting:
                if self._closed:
                    return None
                self._frame_came.wait()
            ticket = self._waiting.popleft()
            ticket._sent_at = time.monotonic()
            self._in_flight.append(ticket)
            self._free -= 1
            return ticket

    def free(self) -> None:
        """Note that a thread can take a frame again."""
        with self._lock:
            self._free += 1
            self._room_came.notify()

    def finish(
        self,
        ticket: Ticket,
        status: Status,
        answer: Cells | Foreground | None = None,
        error: Exception | None = None,
    ) -> None:
        """Record what became of a frame that was taken. An answer after the deadline is late."""
        with self._lock:
            if ticket not in self._in_flight:  # its deadline passed, or the analyzer was closed
                return
            self._in_flight.remove(ticket)
            if status == "answered" and ticket._left_s() < 0:
                status, answer, error = "late", None, _too_late(ticket)
            self._finish(ticket, status, answer, error)

    def watch_deadlines(self) -> None:
        """Make frames late at their deadlines, until the queue is closed and empty."""
        with self._lock:
            while not self._closed or self._waiting or self._in_flight:
                for tickets in (self._waiting, self._in_flight):
                    for ticket in [ticket for ticket in tickets if ticket._left_s() <= 0]:
                        tickets.remove(ticket)
                        self._finish(ticket, "late", error=_too_late(ticket))
                        self._room_came.notify()
                left = [t._left_s() for t in (*self._waiting, *self._in_flight)]
                self._deadline_came.wait(max(0.0, min(left)) if left else None)

    def add_reader(self, reader: Results) -> None:
        """Tell ``reader`` of all frames from now on, for as long as somebody holds it."""
        with self._lock:
            self._readers.add(reader)
            if self._closed:
                reader._end()

    def close(self, drain: bool) -> None:
        """Take no more frames in, and return once the result of every frame is known.

        Args:
            drain: whether to wait for the frames that were submitted; else they are dropped.
        """
        with self._lock:
            self._closed = True
            self._frame_came.notify_all()
            self._room_came.notify_all()
            while drain and (self._waiting or self._in_flight):
                self._all_known.wait()
            while self._waiting:
                self._finish(self._waiting.popleft(), "dropped", reason=_CLOSED)
            while self._in_flight:
                self._finish(self._in_flight.pop(), "dropped", reason=_CLOSED)
            self._deadline_came.notify_all()
            for reader in self._readers:
                reader._end()

    def statistics(self) -> AnalyzerStatistics:
        """Return all counts of one moment."""
        with self._lock:
            counts, durations = Counter(self._counts), list(self._durations)
            in_flight = len(self._in_flight)
        done = counts["answered"] + counts["dropped"] + counts["late"] + counts["failed"]
        p50_s, p95_s, p99_s = percentiles(durations)
        return AnalyzerStatistics(
            submitted=counts["submitted"],
            answered=counts["answered"],
            dropped=counts["dropped"],
            late=counts["late"],
            failed=counts["failed"],
            waiting=counts["submitted"] - done - in_flight,
            in_flight=in_flight,
            skipped=counts["skipped"],
            p50_s=p50_s,
            p95_s=p95_s,
            p99_s=p99_s,
        )

    def _has_room(self) -> bool:
        # The frame that a free thread is about to take is not one that waits.
        return len(self._waiting) < self._size + self._free

    def _wait_for_room(self, ticket: Ticket) -> None:
        while not self._closed and not self._has_room() and (left := ticket._left_s()) > 0:
            self._room_came.wait(left)

    def _add(self, ticket: Ticket) -> None:
        self._waiting.append(ticket)
        self._frame_came.notify()
        if len(self._waiting) + len(self._in_flight) == 1:  # later frames have later deadlines
            self._deadline_came.notify()

    def _finish(
        self,
        ticket: Ticket,
        status: Status,
        answer: Cells | Foreground | None = None,
        error: Exception | None = None,
        reason: str = "",
    ) -> None:
        """Make the result known of a ticket that neither waits nor is in flight any more."""
        self._counts[status] += 1
        result = ticket._finish(status, answer, error, reason)
        if result.answered:
            self._durations.append(result.total_s)
        for reader in self._readers:
            reader._finished(ticket)
        self._all_known.notify_all()


def _too_late(ticket: Ticket) -> DeadlineExceeded:
    deadline = ticket._deadline - ticket._submitted_at
    return DeadlineExceeded(
        f"A frame is answered within its deadline, time in the queue included; given: "
        f"{deadline:.3g} s. Allow more time (deadline=…), submit fewer frames (select=…), or let "
        "more be in flight (max_in_flight=…)."
    )
