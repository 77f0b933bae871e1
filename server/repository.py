"""Which pipelines of a model repository are exported, and what the others lack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cytoserve.contract import PIPELINES, Pipeline
from cytoserve.model_config import MODEL_FILES, ModelConfigError, read_config, versions
from server.errors import RepositoryError


@dataclass(frozen=True)
class PipelineExport:
    """One pipeline of the contract, and what of it the repository lacks."""

    pipeline: Pipeline

    missing: tuple[str, ...]
    """What is not there, each as a path below the repository; empty when all is exported."""

    @property
    def models(self) -> tuple[str, str]:
        """Models to load by name: the ensemble, whose steps Triton loads itself, and the card."""
        return self.pipeline.name, self.pipeline.card

    @property
    def command(self) -> str:
        """The command that makes what is missing."""
        return f"python -m export {self.pipeline.name}"


def survey(repository: Path, names: Iterable[str] = PIPELINES) -> list[PipelineExport]:
    """Look for the models of each named pipeline; raise `RepositoryError` for a bad config."""
    if not repository.is_dir():
        raise RepositoryError(f"The model repository {repository} is not a folder.")
    return [
        PipelineExport(pipeline, tuple(missing_of(repository, [pipeline.name, pipeline.card])))
        for pipeline in (PIPELINES[name] for name in names)
    ]


def missing_of(repository: Path, models: Iterable[str]) -> Iterator[str]:
    """Yield what ``models``, and the steps of those that are ensembles, lack."""
    for model in dict.fromkeys(models):
        config_path = repository / model / "config.pbtxt"
        if not config_path.exists():
            yield f"{model}/config.pbtxt"
            continue
        try:
            config = read_config(config_path)
        except ModelConfigError as error:
            raise RepositoryError(str(error)) from error
        steps = [step.model_name for step in config.ensemble_scheduling.step]
        file = "" if steps else config.default_model_filename or MODEL_FILES.get(config.backend, "")
        folders = (repository / model / str(version) for version in versions(repository / model))
        if not any((folder / file).exists() for folder in folders):
            yield f"{model}/<version>/{file}"
        yield from missing_of(repository, steps)
