"""Tables of results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

ABSENT = "-"
"""Cell for a figure that does not exist: the study, or an earlier version's result, lacks it."""


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as Markdown, without a trailing newline.

    Args:
        head: title of each column; that of the last one may be empty.
        rows: one cell per column.
    """
    titles = f"| {' | '.join(head)}".rstrip() + " |"
    lines = (f"| {' | '.join(cells)} |" for cells in rows)
    return "\n".join([titles, "|---" * len(head) + "|", *lines])
