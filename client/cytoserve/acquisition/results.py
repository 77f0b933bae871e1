"""An iterator over what became of the frames, for one reader."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal, get_args

from cytoserve.acquisition.tickets import FrameResult, Ticket
from cytoserve.errors import InvalidSetting

Order = Literal["completion", "arrival"]
"""``completion``: as results become known. ``arrival``: in the order of submission."""

MAX_UNREAD = 1000
"""Default number of results that wait for a reader."""

_INTERRUPTIBLE_S = 0.5
"""Seconds between two wakes of a waiting reader: on Windows, Ctrl-C is only noticed then."""


class Results(Iterator[FrameResult]):
    """The results of all frames that are submitted after this iterator was made.

    It ends when the analyzer is closed and all results are read. It belongs to one reader. At most
    ``max_unread`` results wait for the reader; the oldest of more are left out here and counted in
    ``missed``. Their tickets, the callback and the statistics still tell of them.

    Attributes:
        missed: number of results that were left out because the reader was too slow.
    """

    def __init__(self, order: Order = "completion", max_unread: int = MAX_UNREAD) -> None:
        if order not in get_args(Order) or max_unread < 1:
            raise InvalidSetting(
                f"Results come in the order of {' or '.join(get_args(Order))}, and at least one "
                f"may wait; given: order={order!r}, max_unread={max_unread!r}. Leave them out for "
                "the defaults."
            )
        self.missed = 0
        self._order = order
        self._max_unread = max_unread
        self._tickets: deque[Ticket] = deque()
        self._ended = False
        self._changed = threading.Condition()
        self._tell: Callable[[], object] = lambda: None  # the asyncio twin wakes its loop with it

    def __next__(self) -> FrameResult:
        with self._changed:
            while True:
                if (result := self._next_known()) is not None:
                    return result
                if self._ended and not self._tickets:
                    raise StopIteration
                self._changed.wait(_INTERRUPTIBLE_S)

    def _next_known(self) -> FrameResult | None:
        """Take the next result, if it is known already."""
        with self._changed:
            if not self._tickets or not self._tickets[0].done():
                return None
            return self._tickets.popleft().result()

    def _ended_and_read(self) -> bool:
        with self._changed:
            return self._ended and not self._tickets

    def _submitted(self, ticket: Ticket) -> None:
        if self._order == "arrival":
            self._add(ticket)

    def _finished(self, ticket: Ticket) -> None:
        if self._order == "completion":
            self._add(ticket)
        else:
            self._wake()

    def _end(self) -> None:
        self._ended = True
        self._wake()

    def _add(self, ticket: Ticket) -> None:
        with self._changed:
            self._tickets.append(ticket)
            if len(self._tickets) > self._max_unread:
                self._tickets.popleft()
                self.missed += 1
        self._wake()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
        self._tell()
