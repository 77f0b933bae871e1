"""The part of a model repository that one run serves: one version of every model.

Triton gets a folder of its own, in which links lead to the chosen versions. The configuration of a
pipeline names the version of each of its steps there. An export installs several models one after
the other, and changes nothing until all are there: a request is answered by the models of one
export, never by some of the old and some of the new.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from cytoserve.contract import Pipeline
from cytoserve.model_config import CONFIG_FILE, config_file, read_config, versions


class ServedRepository:
    """The folder that Triton serves from.

    Args:
        source: model repository with exported versions.
        folder: folder to make, and to make anew for every start of Triton.
        pipelines: exported pipelines to serve.
        variant: name of the variant; None uses every model's ``config.pbtxt``.
    """

    def __init__(
        self, source: Path, folder: Path, pipelines: Sequence[Pipeline], variant: str | None
    ) -> None:
        self.source = source.resolve()
        self.folder = folder
        self.pipelines = pipelines
        self.variant = variant
        self.served: Mapping[str, int] = {}
        """Model -> version that answers new requests."""
        self.lock = threading.Lock()
        """Held while the folder is changed."""

    def lay_out(self) -> None:
        """Make the folder, with the newest version of every model."""
        with self.lock:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.served = self.newest()
            for model, version in self.served.items():
                self.add_version(model, version)
            self.configure(self.served)

    def steps(self, pipeline: Pipeline) -> list[str]:
        """Return the names of the steps of a pipeline in this variant."""
        config = read_config(config_file(self.source / pipeline.name, self.variant))
        return [step.model_name for step in config.ensemble_scheduling.step]

    def newest(self) -> dict[str, int]:
        """Return the newest version of every model of the pipelines, as they are on the disk."""
        names: dict[str, None] = {}
        for pipeline in self.pipelines:
            names |= dict.fromkeys((*self.steps(pipeline), pipeline.name, pipeline.card))
        found = {name: versions(self.source / name) for name in names}
        return {name: numbers[-1] for name, numbers in found.items() if numbers}

    def update(self) -> dict[str, int] | None:
        """Return the newest versions if they are not those that are served.

        None while an export is writing: it holds a lock on the folder.
        """
        descriptor = os.open(self.source, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            newest = self.newest()
        except BlockingIOError:
            return None
        finally:
            os.close(descriptor)
        return newest if newest != self.served else None

    def add_version(self, model: str, version: int) -> None:
        """Let Triton see a version of a model."""
        link = self.folder / model / str(version)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(self.source / model / str(version))

    def visible(self, model: str) -> list[int]:
        """Return the versions that Triton sees, also those that are gone from the disk."""
        return [int(link.name) for link in (self.folder / model).glob("[0-9]*")]

    def remove_other_versions(self, models: Mapping[str, int]) -> None:
        """Hide all versions of models except the given ones."""
        for model, version in models.items():
            for other in self.visible(model):
                if other != version:
                    (self.folder / model / str(other)).unlink()

    def configure(self, models: Mapping[str, int]) -> None:
        """Write the configurations; pipelines then use these versions of their steps."""
        ensembles = {pipeline.name for pipeline in self.pipelines}
        for model in models:
            config = read_config(config_file(self.source / model, self.variant))
            if model in ensembles:
                _pin(config.ensemble_scheduling.step, models)
            else:
                config.version_policy.all.SetInParent()
            text, file = text_format.MessageToString(config), self.folder / model / CONFIG_FILE
            if not file.exists() or file.read_text() != text:  # Triton reloads what is written anew
                file.write_text(text)


def _pin(steps: Iterable[model_config_pb2.ModelEnsembling.Step], models: Mapping[str, int]) -> None:
    for step in steps:
        step.model_version = models.get(step.model_name, -1)
