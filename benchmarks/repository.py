"""A copy of the hand-written model repository, for runs that must not change what is served."""

from __future__ import annotations

import shutil
from pathlib import Path

SOURCE = Path("model_repository")
WRITTEN_BY_HAND = ("*/config.pbtxt", "*/configs/*.pbtxt", "*/1/model.py")


def copy_repository(target: Path) -> None:
    """Make ``target`` a repository of configs and adapters, without any exported version."""
    for pattern in WRITTEN_BY_HAND:
        for file in SOURCE.glob(pattern):
            copy = target / file.relative_to(SOURCE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
