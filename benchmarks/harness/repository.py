"""A model repository of its own, for runs that must not change what is served."""

from __future__ import annotations

import shutil
from pathlib import Path

from export.repository.configs import write_configs

SOURCE = Path("model_repository")
ADAPTERS = "*/1/model.py"


def copy_repository(target: Path) -> None:
    """Make ``target`` a repository of configurations and adapters, without an exported version."""
    target.mkdir(parents=True, exist_ok=True)
    write_configs(target)
    for file in SOURCE.glob(ADAPTERS):
        copy = target / file.relative_to(SOURCE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
