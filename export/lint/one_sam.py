"""Whether the steps of a pipeline that fit one SAM only are all of the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cytoserve.contract import PIPELINES
from export.lint.exported import newest_version
from export.lint.models import Model
from export.lint.problem import Problem
from export.repository.install import MANIFEST_FILE, SAM_SETTING


def lint_one_sam(ensemble: Model, models: Mapping[str, Model]) -> Iterator[Problem]:
    """Compare what the manifests of an ensemble's newest steps say of the SAM they are for."""
    first: tuple[str, Any] | None = None
    for name in PIPELINES[ensemble.contract.name].steps:
        version = newest_version(models[name].folder) if name in models else None
        made_for = _made_for(version / MANIFEST_FILE) if version else None
        if version is None or made_for is None:
            continue
        first = first or (name, made_for)
        if made_for != first[1]:
            expected = f"{first[1]}, as that of {first[0]}; export the pipeline from one checkpoint"
            yield Problem(
                version / MANIFEST_FILE, f"settings '{SAM_SETTING}'", expected, str(made_for)
            )


def _made_for(manifest: Path) -> Any:
    """The SAM that a step is for; None for a step of any, or where no manifest can be read."""
    try:
        content = json.loads(manifest.read_text())
        return content["settings"].get(SAM_SETTING)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
