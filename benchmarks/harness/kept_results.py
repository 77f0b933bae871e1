"""Results of a long row of runs, kept one by one, so that the row goes on where it was cut off."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FACTS_FILE = "protocol.json"
RESULT_FILE = "result.json"


class OtherProtocolError(ValueError):
    """A folder holds results of another data set or other settings."""


@dataclass(frozen=True)
class KeptResults:
    """``OUT/<run>/result.json`` of every finished run, and the facts that all runs share."""

    out: Path

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Write the facts down, or see that earlier runs in this folder had the same.

        Raises:
            OtherProtocolError: they had others.
        """
        facts = json.loads(json.dumps(facts))
        file = self.out / FACTS_FILE
        if not file.is_file():
            _write(file, facts)
            return
        before = json.loads(file.read_text())
        changed = sorted(n for n in {*facts, *before} if facts.get(n) != before.get(n))
        if changed:
            raise OtherProtocolError(
                f"{self.out} holds results of another protocol:"
                + "".join(f"\n  {n}: {before.get(n)} there, now {facts.get(n)}" for n in changed)
                + "\nGive the same options and data to go on, or another --out to begin anew."
            )

    def folder(self, run: str) -> Path:
        """Folder of one run, for its checkpoint too."""
        return self.out / run

    def load(self, run: str) -> dict[str, Any] | None:
        """The result of a finished run; None where it is not finished."""
        file = self.folder(run) / RESULT_FILE
        if not file.is_file():
            return None
        result: dict[str, Any] = json.loads(file.read_text())
        return result

    def save(self, run: str, result: Mapping[str, Any]) -> None:
        """Keep the result of a finished run: whole, or not at all."""
        _write(self.folder(run) / RESULT_FILE, result)


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(file)
