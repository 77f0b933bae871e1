"""Installing exported models in the repository: complete versions only, by rename."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from cytoserve.files import file_sha256
from cytoserve.model_config import CARD_FILE, MANIFEST_FILE, MODEL_FILES, versions
from export.graphs.files import save_graph

MODEL_FILE = MODEL_FILES["onnxruntime"]
SAM_SETTING = "sam"
"""Manifest setting of a step that fits one SAM only; it identifies that SAM."""
STAGING = ".staging"
KEPT_VERSIONS = 2
"""Number of versions that stay: the new one, and one to go back to by deleting a folder."""


class RepositoryBusyError(RuntimeError):
    """Another export is writing into the same repository."""


@dataclass(frozen=True)
class StagedModel:
    """A model that is written out but not yet served."""

    name: str
    folder: Path
    sha256: dict[str, str]
    """File name -> sha256, without the manifest itself."""


class Staging:
    """A folder in the repository where versions are completed before they appear.

    Use it as a context manager: on exit, whatever was not installed is removed. An interrupted
    export leaves the served versions untouched, and the next export removes its leftovers. The
    repository is locked meanwhile; the system releases the lock of a killed process.

    Raises:
        RepositoryBusyError: on entering, when another export holds the lock.
    """

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.root = repository / STAGING
        self._lock = -1

    def __enter__(self) -> Staging:
        self._lock = _lock(self.repository)
        shutil.rmtree(self.root, ignore_errors=True)
        try:
            self.root.mkdir()
        except OSError:
            os.close(self._lock)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        os.close(self._lock)

    def add_graph(
        self, name: str, graph: onnx.ModelProto, manifest: Mapping[str, Any]
    ) -> StagedModel:
        """Write a version of a step or a card: its graph and its manifest."""
        save_graph(graph, self._folder(name) / MODEL_FILE)
        return self._finish(name, manifest)

    def add_ensemble(
        self, name: str, card: Mapping[str, Any], manifest: Mapping[str, Any]
    ) -> StagedModel:
        """Write a version of a pipeline: its card, which lists what the pipeline consists of."""
        _write_json(self._folder(name) / CARD_FILE, card)
        return self._finish(name, manifest)

    def add_to_newest(
        self, name: str, file: str, graph: onnx.ModelProto | bytes, about: Mapping[str, Any]
    ) -> Path:
        """Add another graph of a model, or a plan, to the newest version; its files stay.

        The manifest gets the hash of ``file`` and, under ``variants``, the facts in ``about``.
        """
        newest = self.repository / name / str(versions(self.repository / name)[-1])
        staged = self._folder(name)
        if isinstance(graph, bytes):
            (staged / file).write_bytes(graph)
        else:
            save_graph(graph, staged / file)
        new = sorted(path.name for path in staged.iterdir())
        manifest = json.loads((newest / MANIFEST_FILE).read_text())
        manifest["sha256"] |= {path: file_sha256(staged / path) for path in new}
        manifest["variants"] = {**manifest.get("variants", {}), file: dict(about)}
        _write_json(staged / MANIFEST_FILE, manifest)
        for path in (*new, MANIFEST_FILE):
            (staged / path).replace(newest / path)
        return newest / file

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        folder.mkdir()
        return folder

    def _finish(self, name: str, manifest: Mapping[str, Any]) -> StagedModel:
        folder = self.root / name
        hashes = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
        _write_json(folder / MANIFEST_FILE, {"model": name, "sha256": hashes, **manifest})
        return StagedModel(name, folder, hashes)

    def target(self, model: StagedModel) -> Path:
        """The version folder for a model: the newest if it holds the same files, else the next."""
        folder = self.repository / model.name
        existing = versions(folder)
        if not existing:
            return folder / "1"
        newest = folder / str(existing[-1])
        return newest if _holds(newest, model.sha256) else folder / str(existing[-1] + 1)

    def install(self, models: Sequence[StagedModel]) -> list[Path]:
        """Let all versions appear in the given order, then remove all but the last two.

        Returns the version folders that are now the newest.
        """
        targets = [self.target(model) for model in models]
        for model, target in zip(models, targets, strict=True):
            if not target.exists():
                model.folder.rename(target)
        for target in targets:
            for old in versions(target.parent)[:-KEPT_VERSIONS]:
                shutil.rmtree(target.parent / str(old))
        return targets


def _lock(repository: Path) -> int:
    """Lock the folder itself, so that no lock file is left among the models."""
    descriptor = os.open(repository, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise RepositoryBusyError(
            f"another export is writing into {repository}; wait until it has finished."
        ) from error
    return descriptor


def _holds(version: Path, sha256: Mapping[str, str]) -> bool:
    """Whether a version has these files intact and a manifest; a damaged version is replaced."""
    return (version / MANIFEST_FILE).is_file() and all(
        (version / name).is_file() and file_sha256(version / name) == expected
        for name, expected in sha256.items()
    )


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")
