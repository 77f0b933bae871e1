"""The part of a model repository that one run serves: few versions of every model.

Triton gets a folder of its own, in which links lead to the chosen versions. The configuration of a
pipeline names the version of each of its steps there. An export installs several models one after
the other, and changes nothing until all are there: a request is answered by the models of one
export, never by some of the old and some of the new.

Where callers may ask for a version, each is a further model, such as ``yolo.3`` with its card
``yolo_card.3``.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from cytoserve.contract import CARD_INPUT, CARD_OUTPUT, Pipeline, version_name
from cytoserve.model_config import (
    CONFIG_FILE,
    config_file,
    read_config,
    recorded_models,
    versions,
)


@dataclass(frozen=True)
class Export:
    """One version of a pipeline, and what it consists of."""

    pipeline: Pipeline
    version: int
    models: Mapping[str, int]
    """Step or card -> version."""

    @property
    def names(self) -> tuple[str, str]:
        """Models that callers of this version ask: the pipeline, and its card."""
        name, card = self.pipeline.name, self.pipeline.card
        return version_name(name, self.version), version_name(card, self.version)


class ServedRepository:
    """The folder that Triton serves from.

    Args:
        source: model repository with exported versions.
        folder: folder to make, and to make anew for every start of Triton.
        pipelines: exported pipelines to serve.
        variant: name of the variant; None uses every model's ``config.pbtxt``.
        kept: number of versions of every pipeline that callers may ask for. 1 serves the newest to
            all of them.
    """

    def __init__(
        self,
        source: Path,
        folder: Path,
        pipelines: Sequence[Pipeline],
        variant: str | None,
        kept: int = 1,
    ) -> None:
        self.source = source.resolve()
        self.folder = folder
        self.pipelines = pipelines
        self.variant = variant
        self.kept = kept
        self.served: Mapping[str, int] = {}
        """Model -> version that answers new requests."""
        self.exports: Sequence[Export] = ()
        """The versions that callers may ask for."""
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
            self.exports = self.find_exports(self.served)
            for export in self.exports:
                self.add_export(export)
            for folder in self.source.iterdir():
                if folder.is_dir() and not (self.folder / folder.name).exists():
                    self.add_other(folder.name)

    def load_names(self) -> list[str]:
        """Return the models to load; Triton loads the steps of pipelines by itself."""
        newest = [name for each in self.pipelines for name in (each.name, each.card)]
        return [*newest, *(name for export in self.exports for name in export.names)]

    def steps(self, pipeline: Pipeline) -> list[str]:
        """Return the names of the steps of a pipeline in this variant."""
        return [step.model_name for step in self.config(pipeline.name).ensemble_scheduling.step]

    def config(self, model: str) -> model_config_pb2.ModelConfig:
        """Read the configuration of a model in this variant."""
        return read_config(config_file(self.source / model, self.variant))

    def newest(self) -> dict[str, int]:
        """Return the newest version of every model of the pipelines, as they are on the disk."""
        names: dict[str, None] = {}
        for pipeline in self.pipelines:
            names |= dict.fromkeys((*self.steps(pipeline), pipeline.name, pipeline.card))
        found = {name: versions(self.source / name) for name in names}
        return {name: numbers[-1] for name, numbers in found.items() if numbers}

    def find_exports(self, newest: Mapping[str, int]) -> list[Export]:
        """Return the versions that callers may ask for, if the newest ones are these."""
        return [each for p in self.pipelines for each in self._exports_of(p, newest)]

    def _exports_of(self, pipeline: Pipeline, newest: Mapping[str, int]) -> Iterator[Export]:
        if self.kept == 1:
            return
        names = (*self.steps(pipeline), pipeline.card)
        own, cards = (
            [n for n in versions(self.source / name) if n <= newest[name]][-self.kept :]
            for name in (pipeline.name, pipeline.card)
        )
        # An export writes a version of the pipeline together with one of its card.
        for number, card in zip(reversed(own), reversed(cards), strict=False):
            recorded: Mapping[str, int] = {}
            if number != newest[pipeline.name]:
                try:
                    recorded = recorded_models(self.source / pipeline.name / str(number))
                except (OSError, ValueError, KeyError, TypeError):
                    continue  # not an export, so nobody knows which steps it had
            models = {**newest, **recorded, pipeline.card: card}
            models = {name: models[name] for name in names if name in models}
            if all((self.source / m / str(v)).is_dir() for m, v in models.items()):
                yield Export(pipeline, number, models)

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

    def add_other(self, model: str) -> None:
        """Let Triton see a model of no served pipeline, which an operator may load by its name."""
        for version in versions(self.source / model):
            self.add_version(model, version)
        config = config_file(self.source / model, self.variant)
        if config.is_file():
            (self.folder / model).mkdir(exist_ok=True)
            shutil.copyfile(config, self.folder / model / CONFIG_FILE)

    def add_export(self, export: Export) -> None:
        """Let Triton see a version of a pipeline as a model of its own, and its card as another."""
        for model, version in export.models.items():
            self.add_version(model, version)
            self._write_config(model, self._step_config(model))
        name, card = export.names
        pipeline = self.config(export.pipeline.name)
        _pin(pipeline.ensemble_scheduling.step, export.models)
        page = self.config(export.pipeline.card)
        relay = model_config_pb2.ModelConfig(platform="ensemble", input=page.input)
        relay.output.extend(page.output)
        step = relay.ensemble_scheduling.step.add(
            model_name=export.pipeline.card, model_version=export.models[export.pipeline.card]
        )
        step.input_map[CARD_INPUT.name] = CARD_INPUT.name
        step.output_map[CARD_OUTPUT.name] = CARD_OUTPUT.name
        for model, config in ((name, pipeline), (card, relay)):
            config.name = model
            (self.folder / model / "1").mkdir(parents=True, exist_ok=True)
            self._write_config(model, config)

    def visible(self, model: str) -> list[int]:
        """Return the versions that Triton sees, also those that are gone from the disk."""
        return [int(link.name) for link in (self.folder / model).glob("[0-9]*")]

    def remove_other_versions(self, models: Mapping[str, int]) -> None:
        """Hide all versions of models except the given ones, and those of the kept exports."""
        kept = {pair for export in self.exports for pair in export.models.items()}
        for model, version in models.items():
            for other in self.visible(model):
                if other != version and (model, other) not in kept:
                    (self.folder / model / str(other)).unlink()

    def configure(self, models: Mapping[str, int]) -> None:
        """Write the configurations; pipelines then use these versions of their steps."""
        ensembles = {pipeline.name for pipeline in self.pipelines}
        for model in models:
            config = self.config(model) if model in ensembles else self._step_config(model)
            if model in ensembles:
                _pin(config.ensemble_scheduling.step, models)
            self._write_config(model, config)

    def _step_config(self, model: str) -> model_config_pb2.ModelConfig:
        config = self.config(model)
        config.version_policy.all.SetInParent()
        return config

    def _write_config(self, model: str, config: model_config_pb2.ModelConfig) -> None:
        text, file = text_format.MessageToString(config), self.folder / model / CONFIG_FILE
        if not file.exists() or file.read_text() != text:  # Triton reloads what is written anew
            file.write_text(text)


def _pin(steps: Iterable[model_config_pb2.ModelEnsembling.Step], models: Mapping[str, int]) -> None:
    for step in steps:
        step.model_version = models.get(step.model_name, -1)
