"""Putting exported models into the repository: complete versions only, by rename."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from cytoserve.model_config import versions

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
STAGING = ".staging"
KEPT_VERSIONS = 2
"""The new version and the one before it, to go back to by deleting a folder."""


@dataclass(frozen=True)
class StagedModel:
    """A model that is written out but not yet served."""

    name: str
    folder: Path
    sha256: dict[str, str]
    """File -> sha256, the manifest's own left out."""


class Staging:
    """A folder in the repository where versions are completed before they appear.

    Use as a context manager: what was not installed is removed, and an export that was cut off
    leaves the versions that are served untouched. Leftovers of a killed export are removed by the
    next one.
    """

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.root = repository / STAGING

    def __enter__(self) -> Staging:
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def add(
        self, name: str, graph: onnx.ModelProto | None, manifest: Mapping[str, Any]
    ) -> StagedModel:
        """Write one version: the graph (an ensemble has none) and its manifest."""
        folder = self.root / name
        folder.mkdir()
        if graph is not None:
            onnx.save(graph, folder / MODEL_FILE)
        hashes = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.iterdir())
        }
        content = {"model": name, "sha256": hashes, **manifest}
        (folder / MANIFEST_FILE).write_text(json.dumps(content, indent=2) + "\n")
        return StagedModel(name, folder, hashes)

    def version_of(self, model: StagedModel) -> int:
        """The version `install` gives: the newest if it holds the same files, else the next."""
        existing = versions(self.repository / model.name)
        if not existing:
            return 1
        manifest = self.repository / model.name / str(existing[-1]) / MANIFEST_FILE
        same = (
            bool(model.sha256)
            and manifest.is_file()
            and json.loads(manifest.read_text()).get("sha256") == model.sha256
        )
        return existing[-1] if same else existing[-1] + 1

    def install(self, model: StagedModel) -> Path:
        """Move a version into place in one step and remove versions older than the last two."""
        version = self.version_of(model)
        target = self.repository / model.name / str(version)
        if not target.exists():
            model.folder.rename(target)
        for old in versions(target.parent)[:-KEPT_VERSIONS]:
            shutil.rmtree(target.parent / str(old))
        return target
