"""Exit status of every command, and the table of them for ``--help``."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit status of the commands; 1 is reserved for interruption (Ctrl-C) and our own bugs."""

    DONE = 0
    USAGE = 2
    SOME_FAILED = 3
    SERVER_FAILED = 4
    NOTHING_TO_DO = 5


MEANINGS = {
    ExitCode.DONE: "everything is done",
    ExitCode.USAGE: "wrong usage; nothing was sent",
    ExitCode.SOME_FAILED: "some images or checks failed, the others are done",
    ExitCode.SERVER_FAILED: "the server cannot be reached, or stopped answering",
    ExitCode.NOTHING_TO_DO: "no image was found, or the pipeline is not served",
}

EPILOG = "\b\nExit status:\n" + "\n".join(
    f"  {code.value}  {meaning}" for code, meaning in MEANINGS.items()
)
"""Table of exit statuses for ``--help``."""
