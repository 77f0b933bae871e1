"""What lint finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One disagreement; printed on one line that names all four."""

    file: Path
    field: str
    expected: str
    found: str

    def __str__(self) -> str:
        text = f"{self.file}: {self.field}: expected {self.expected}, found {self.found}"
        return " ".join(text.split())
