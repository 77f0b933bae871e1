"""Event-driven acquisition: which events still lack a decision, so when it ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

from cytoserve.acquisition.tickets import FrameResult, Ticket

FRAME_WAIT_S = 10.0
"""Default seconds after which an executed event whose frame did not come is given up."""

_POLL_S = 0.2
"""Seconds between two looks for frames that do not come, and for Ctrl-C on Windows."""

_LOG = logging.getLogger(__name__)

Event = TypeVar("Event")
Decide = Callable[[FrameResult], "Iterable[Any] | None"]
"""Function from what became of a frame to the events that shall be acquired because of it."""


class OpenEvents:
    """The events of one acquisition that were handed out and not decided upon.

    Args:
        decide: called with what became of every frame, dropped and failed ones included. If it
            raises, the error is logged and the frame has no consequences.
        frame_wait_s: seconds after which an executed event whose frame did not come is given up.
    """

    def __init__(self, decide: Decide, frame_wait_s: float = FRAME_WAIT_S) -> None:
        self._decide = decide
        self._frame_wait_s = frame_wait_s
        self._changed = threading.Condition()
        self._without_frame: dict[Hashable, float] = {}  # key -> time at which it is given up
        self._undecided: list[Ticket] = []

    def expect(self, key: Hashable) -> None:
        """Wait for the frame of an event that is being executed."""
        with self._changed:
            self._without_frame[key] = time.monotonic() + self._frame_wait_s

    def executed(self) -> None:
        """Note that all expected events were executed just now, so their frames are on the way."""
        with self._changed:
            until = time.monotonic() + self._frame_wait_s
            self._without_frame = dict.fromkeys(self._without_frame, until)

    def add(self, key: Hashable, ticket: Ticket) -> None:
        """Note that the frame of an event came."""
        with self._changed:
            self._undecided.append(ticket)
            self._without_frame.pop(key, None)
            self._changed.notify_all()
        ticket._when_done(self._wake)

    def decide_known(self) -> list[Any]:
        """Decide upon all frames whose result is known, and return the events that follow."""
        with self._changed:
            known = [ticket for ticket in self._undecided if ticket.done()]
        events: list[Any] = []
        for ticket in known:
            try:
                events.extend(self._decide(ticket.result()) or ())
            except Exception:
                _LOG.exception("The decision upon frame %d raised.", ticket.number)
        with self._changed:
            self._undecided = [ticket for ticket in self._undecided if ticket not in known]
        return events

    def wait(self) -> bool:
        """Wait until there may be something to decide; return whether any event is still open."""
        with self._changed:
            if not any(ticket.done() for ticket in self._undecided):
                self._give_up()
                if not self._undecided and not self._without_frame:
                    return False
                self._changed.wait(_POLL_S)
            return True

    def _give_up(self) -> None:
        now = time.monotonic()
        for key in [key for key, until in self._without_frame.items() if now > until]:
            del self._without_frame[key]
            _LOG.warning("Event %s brought no frame in %g s.", key, self._frame_wait_s)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
